"""Programs of PyTorch, unchanged, on devices that are not there: run, captured, priced.

``native`` holds the device that PyTorch sees, ``device`` and ``kernels`` give it shapes and values, ``facade`` the
names of CUDA and of Ascend, ``groups`` the other ranks; ``operators`` turns what was called into operators of the
waist, ``schedule`` spends their prices on streams, ``launch`` starts the ranks. Only what runs inside the program
imports torch.
"""
