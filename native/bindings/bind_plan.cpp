#include <nanobind/nanobind.h>

void register_plan(nanobind::module_&) {}
