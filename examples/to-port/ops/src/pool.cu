#include <cuda_runtime.h>

__global__ void pool_kernel(float* x, float* y, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) {
    y[i] = fmaxf(x[2 * i], x[2 * i + 1]);
  }
}
