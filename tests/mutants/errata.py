"""What the five student texts print that is wrong, or is missing, or invites a mistake: E1 to E44.

This project took its list of topics from them. An erratum that is a formula is a mutant of the
collection; the others are kept here with what is right, and with why there is no mutant.
"""

ERRATA = {
    1: "1 / (2 sigma_sigma^2) for 1 / (2 sigma_q^2)",
    2: "sqrt(1 - abar) without the index t in the sampler",
    3: "p(x_{t-1} | t) for p(x_{t-1} | x_t)",
    4: "absolute bars for the brackets of an expectation",
    5: "the loss in x_0 without the expectation over x_t",
    6: "without its weights the loss looks more at large t: as a ratio of 49, but not monotonely",
    7: "sigma_q in the loss and sigma_t in the sampler, never tied together",
    8: "the reverse process approximates q(x_{1:T} | x_0), for q(x_{t-1} | x_t)",
    9: "the prior term becomes zero",
    10: "large guidance is called unconditional",
    11: "sigma^2 = eta beta-tilde, for sigma = eta sqrt(beta-tilde)",
    12: "q(x_tau_i | x_tau_i, x_0), every index the same",
    13: "the Frechet distance with |m - m'|, not squared",
    14: "FID tells synthetic images from generated ones, for real ones from generated ones",
    15: "from noise to less noisy is called the forward process",
    16: "DDIM has the same marginals: given x_0 and the true eps; what it generates shrinks",
    17: "eta is any positive number",
    18: "the cosine schedule without a value for s, and as if many of its betas were clipped",
    19: "x_0 ... x_N for the states of a sampler and D for its model, eps and x_t everywhere else",
    20: "the cosine schedule ascribed to the DDPM paper, for Nichol & Dhariwal 2021",
    21: "beta-tilde_t of one step in a jump over many",
    22: "times compared without the number of evaluations",
    23: "dynamic thresholding named and not defined",
    24: "parameter counts of three channels for data of one",
    25: "the variance of the posterior without its tilde: beta_t",
    26: "the bracket of 1 - prod(1 - beta_i) closed after I",
    27: "Algorithm 2 without its minus sign",
    28: "L_1 for L_T, and L_{1:T-1} for the reverse process as a whole",
    29: "the encoder listed as q(x_0 | x_1), for q(x_t | x_{t-1})",
    30: "progressive coding as a KL between paths, for the terms that have been sent",
    31: "Gaussian conditioning without the covariance that it needs",
    32: "the posterior has mu and Sigma and the original beta, as if one were no Gaussian",
    33: "L_simple over all t as a bound, t = 1 without its decoder",
    34: "interpolation of latents without a word about their noise",
    35: "b_t for beta_t",
    36: "Inception V2 for V3",
    37: "x ~ p_a for x ~ p_g",
    38: "the KL between p(y) and p(y | x), without its direction",
    39: "T = 500, 1000 and 2000 compared, betas not mentioned",
    40: "T to infinity makes x_T isotropic, whatever the schedule",
    41: "betas from 1e-4 to 0.2 'as DDPM recommends', for 0.02",
    42: "learnable mean and fixed variance said of the forward process",
    43: "timestamp for time step",
    44: "a U-Net fits any image if its channels are changed",
}

WORDS = "a word, not a formula"
WITHOUT_MUTANT = {
    3: WORDS, 4: WORDS, 8: WORDS, 14: WORDS, 15: WORDS, 20: WORDS, 22: WORDS, 24: WORDS, 28: WORDS,
    29: WORDS, 32: WORDS, 35: WORDS, 36: WORDS, 37: WORDS, 42: WORDS, 43: WORDS,
    5: "an expectation is a mean over draws in code, and there is no other way to write it",
    16: "a claim: tests/diffusion/test_exact.py has the variances that DDIM generates",
    40: "a claim: tests/diffusion/test_schedules.py has the limit exp(-10.05) of scaled betas",
}  # fmt: skip
