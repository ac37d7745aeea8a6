"""How far generated images are from real ones: distances between two sets of features.

- `frechet`: the Frechet distance of two Gaussians, and of the Gaussians that fit two samples
- `inception`: the Inception score, from the class probabilities of a classifier
- `kid`: the kernel distance, which is unbiased at every sample size

Arrays go in, NumPy floats come out. Where the features come from is not their business: a value
means something only beside its features, the number of images, and the set it was compared with.
"""
