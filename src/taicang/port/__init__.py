"""What moving software from CUDA to Ascend, or back, takes: read from a repository, by file and line.

Tables come in from the catalogue, files of the repository through ``tree``; nothing here knows a machine or a model.
"""
