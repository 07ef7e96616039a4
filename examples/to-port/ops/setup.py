"""Builds the operators."""

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CUDAExtension

setup(
    name="rows",
    ext_modules=[
        CUDAExtension("rows_cuda", ["src/rows.cu"]),
        CUDAExtension("pool_cuda", ["src/pool.cu"]),
    ],
    cmdclass={"build_ext": BuildExtension},
)
