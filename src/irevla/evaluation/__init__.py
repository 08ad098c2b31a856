"""How good a policy is, in numbers, tables, plots and videos."""
