"""Multiple choice: the best of several texts."""
