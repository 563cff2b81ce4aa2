"""What is for a network's weights alone: layers, guides, curvature, Laplace's approximation."""
