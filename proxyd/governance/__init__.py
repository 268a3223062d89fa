"""Who may do what, and who may see what: rules that know no clock, no loop and no storage."""
