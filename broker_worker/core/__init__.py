"""Pure decisions: values in, values out. The clock is a value too."""
