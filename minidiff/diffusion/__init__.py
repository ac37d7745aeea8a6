"""Diffusion: the noise process, what is learned from it, and how it is run backwards.

From the bottom up:

- `schedules`, `process`: the betas, and the Gaussians q that follow from them
- `parameterizations`: eps, x0, v, score and mu, from any to any
- `objectives`: what a model is trained on; `time_draws`: which times a step of training sees
- `sigma`: the same process and denoisers with the noise level for time
- `sde`: the process in continuous time, forward and reverse, and its chains
- `denoiser`: the interface of a trained model; `oracle`: exact ones for data known in closed form
- `timesteps`, `samplers`, `guidance`: from noise to images
- `ode`: the probability flow, its likelihoods and latents
- `interpolation`, `inpainting`, `progressive`: what can be done with a sampler
- `elbo`: the bound on the likelihood, term by term; `decoder`: its last step, to pixels; `coding`:
  how many bits buy how good an image
- `exact`: mean and covariance of what a sampler generates, without a draw

It knows arrays and a denoiser that can be called, not the network behind it.
"""
