import pyro
import pyro.distributions as dist


def model(admit, applications):
    a = pyro.sample("a", dist.Normal(0.0, 1.5))
    with pyro.plate("row", len(admit)):
        pyro.sample("admit", dist.Binomial(applications, logits=a), obs=admit)
