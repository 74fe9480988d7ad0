#include <nanobind/nanobind.h>

NB_MODULE(_packer, m) { m.doc() = "The interleaving packer."; }
