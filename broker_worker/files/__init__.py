"""YAML files of the operator's, read into frozen values with the line number in every error."""
