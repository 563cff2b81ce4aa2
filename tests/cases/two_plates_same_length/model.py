import pyro
import pyro.distributions as dist


def model(before, after):
    a = pyro.sample("a", dist.Normal(0.0, 10.0))
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    with pyro.plate("control", len(before)):
        pyro.sample("before", dist.Normal(a, 1.0), obs=before)
    with pyro.plate("treated", len(after)):
        pyro.sample("after", dist.Normal(b, 1.0), obs=after)
