"""A recorded graph of tensor operations as one C file, compiled and run without Python."""
