"""PERSIA's names, as far as clients and handlers use them, for satrap's own implementation.

`import persia` loads none of the modules below: a client's machine needs no torch, which `persia.ctx` imports.
"""
