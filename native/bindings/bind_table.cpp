#include <nanobind/nanobind.h>

void register_table(nanobind::module_&) {}
