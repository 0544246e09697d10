"""Reading and writing weights in files of every format."""
