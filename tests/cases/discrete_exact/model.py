import pyro
import pyro.distributions as dist


def model(wet):
    rain = pyro.sample("rain", dist.Bernoulli(0.2))
    sprinkler = pyro.sample("sprinkler", dist.Bernoulli(0.4 - 0.39 * rain))
    p = 0.99 * rain * sprinkler + 0.8 * rain * (1 - sprinkler) + 0.9 * (1 - rain) * sprinkler
    pyro.sample("wet", dist.Bernoulli(p), obs=wet)
