"""What several models are built of: networks, priors, marginals in closed form, figures."""
