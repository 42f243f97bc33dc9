"""Where values live between two uses."""
