"""`fleet doctor`: every host examined in one exchange, what is wrong there told with its remedy."""
