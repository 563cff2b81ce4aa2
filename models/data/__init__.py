"""Where rows come from: files of the user, simulated sets, public data sets, Python itself."""
