"""A checkpoint onto devices: what a command line asks for, the files, the devices, adapters, and conversion.

`arguments` and `checkpoint` import neither PyTorch nor anything that does, so that a wrong flag or path is answered at
once; everything else here does.
"""
