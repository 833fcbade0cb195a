#include <nanobind/nanobind.h>

void register_batch(nanobind::module_&) {}
