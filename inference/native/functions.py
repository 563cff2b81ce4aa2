"""The mathematical functions that the C calls: those of the C library, and our own."""

# Name to the number of arguments, and whether glibc has a vector version.
FUNCTIONS = {
    **dict.fromkeys(("acos", "acosh", "asin", "asinh", "atan", "atanh"), (1, True)),
    **dict.fromkeys(("cos", "cosh", "sin", "sinh", "tan", "tanh", "erf", "erfc"), (1, True)),
    **dict.fromkeys(("exp", "exp2", "expm1", "log", "log10", "log1p", "log2"), (1, True)),
    **dict.fromkeys(("atan2", "hypot", "pow"), (2, True)),
    **dict.fromkeys(("ceil", "fabs", "floor", "rint", "sqrt", "trunc"), (1, False)),
}
# Functions that the process has already, by our name and torch's: products of matrices, and how
# many threads these take. Whoever loads the library says where they are.
LIBRARY = {"dgemm": "dgemm_", "sgemm": "sgemm_", "set_threads": "omp_set_num_threads"}

# Digamma and trigamma by recurrence up to 10 and the asymptotic series from there, and by
# reflection below zero (Abramowitz and Stegun 1964, 6.3.5, 6.3.7, 6.3.18, 6.4.6, 6.4.7, 6.4.12);
# at poles what torch gives. Trigamma has as many terms as torch's, which is right to 5e-10.
HELPERS = """
void (*dgemm)(), (*sgemm)(), (*set_threads)(int);
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
""".replace("M_PI", "3.14159265358979323846")
