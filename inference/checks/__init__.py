"""Is the model sound, is the result that of the posterior, is the method calibrated?"""
