"""Results as pictures, on the terminal and as HTML."""
