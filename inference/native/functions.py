"""The mathematical functions that the C calls: those of the C library, and our own."""

# Name to the number of arguments, and whether glibc has a vector version.
FUNCTIONS = {
    **dict.fromkeys(("acos", "acosh", "asin", "asinh", "atan", "atanh"), (1, True)),
    **dict.fromkeys(("cos", "cosh", "sin", "sinh", "tan", "tanh", "erf", "erfc"), (1, True)),
    **dict.fromkeys(("exp", "exp2", "expm1", "log", "log10", "log1p", "log2"), (1, True)),
    **dict.fromkeys(("atan2", "hypot", "pow"), (2, True)),
    "fmod": (2, False),
    **dict.fromkeys(("ceil", "fabs", "floor", "rint", "sqrt", "trunc"), (1, False)),
}
# Functions that the process has already, by our name and torch's: products and factors of
# matrices, and how many threads these take. Whoever loads the library says where they are.
LIBRARY = {
    **{name: f"{name}_" for name in ("dgemm", "sgemm", "dpotrf", "spotrf")},
    "set_threads": "omp_set_num_threads",
}

# Functions of SciPy's that its C interface gives, by our name: its name, and how many arguments.
SPECIAL = {
    "bessel_i0": ("i0", 1),
    "bessel_i0e": ("i0e", 1),
    "bessel_i1": ("i1", 1),
    "bessel_i1e": ("i1e", 1),
    "bessel_k0": ("k0", 1),
    "bessel_k1": ("k1", 1),
    "erfcx": ("__pyx_fuse_1erfcx", 1),
    "erfinv": ("__pyx_fuse_0erfinv", 1),
    "log_ndtr": ("__pyx_fuse_1log_ndtr", 1),
    "ndtri": ("ndtri", 1),
    "gammainc": ("gammainc", 2),
    "gammaincc": ("gammaincc", 2),
}

# Digamma and trigamma by recurrence up to 10 and the asymptotic series from there, and by
# reflection below zero (Abramowitz and Stegun 1964, 6.3.5, 6.3.7, 6.3.18, 6.4.6, 6.4.7, 6.4.12);
# at poles what torch gives. Trigamma has as many terms as torch's, which is right to 5e-10. Zeta
# is Hurwitz's, by the sum of Euler and Maclaurin. Rest and quotient of a division round down.
HELPERS = """
void (*dgemm)(), (*sgemm)(), (*dpotrf)(), (*spotrf)(), (*set_threads)(int);
double lgamma_r(double, int *);
static double log_gamma(double x) { int sign; return lgamma_r(x, &sign); }
static double digamma(double x) {
  double sum = 0;
  if (x == 0) return __builtin_copysign(__builtin_inf(), -x);
  if (x < 0) {
    double part = x - trunc(x);
    if (part == 0) return __builtin_nan("");
    sum = -M_PI / tan(M_PI * part);
    x = 1 - x;
  }
  for (; x < 10; x += 1) sum -= 1 / x;
  double y = 1 / (x * x), tail = 1. / 12;
  tail = 691. / 32760 - y * tail;
  tail = 1. / 132 - y * tail;
  tail = 1. / 240 - y * tail;
  tail = 1. / 252 - y * tail;
  tail = 1. / 120 - y * tail;
  tail = 1. / 12 - y * tail;
  return sum + log(x) - 0.5 / x - y * tail;
}
static double trigamma(double x) {
  double sum = 0, sign = 1;
  if (x < 0.5) {
    double sine = sin(M_PI * x);
    sum = M_PI * M_PI / (sine * sine);
    sign = -1;
    x = 1 - x;
  }
  for (int i = 0; i < 6; i++, x += 1) sum += sign / (x * x);
  double y = 1 / (x * x), tail = 1. / 6 - y * (1. / 30 - y / 42);
  return sum + sign * (1 / x + y / 2 + y / x * tail);
}
static double zeta(double s, double q) {
  static const double scale[] = {
    12, -720, 30240, -1209600, 47900160, -1.8924375803183791606e9, 7.47242496e10,
    -2.950130727918164224e12, 1.1646782814350067249e14, -4.5979787224074726105e15,
    1.8152105401943546773e17, -7.1661652561756670113e18};
  if (s == 1 || (s > 1 && q <= 0 && q == floor(q))) return __builtin_inf();
  if (!(s > 1) || (q <= 0 && s != floor(s))) return __builtin_nan("");
  double sum = pow(q, -s), power = 0;
  for (int i = 0; i < 9 || q <= 9; i++) {
    q += 1;
    power = pow(q, -s);
    sum += power;
    if (fabs(power) < 1.1e-16 * fabs(sum)) return sum;
  }
  sum += power * q / (s - 1) - power / 2;
  double rising = 1;
  for (int i = 0; i < 12; i++) {
    rising *= s + 2 * i;
    power /= q;
    double term = rising * power / scale[i];
    sum += term;
    if (fabs(term) < 1.1e-16 * fabs(sum)) return sum;
    rising *= s + 2 * i + 1;
    power /= q;
  }
  return sum;
}
static double rest(double a, double b) {
  double part = fmod(a, b);
  return part != 0 && (b < 0) != (part < 0) ? part + b : part;
}
static double floored(double a, double b) {
  if (b == 0) return a / b;
  double part = fmod(a, b), whole = (a - part) / b;
  if (part != 0 && (b < 0) != (part < 0)) whole -= 1;
  if (whole == 0) return __builtin_copysign(0, a / b);
  double below = floor(whole);
  return whole - below > 0.5 ? below + 1 : below;
}
""".replace("M_PI", "3.14159265358979323846")
