"""The collection of mistakes. Each is a mutant, which the tests that it names must kill.

They are mistakes that were printed or made: the errata of the five student texts from which this
project took its list of topics (E1 to E44, see `tests.mutants.errata`), and what has been asked or
reported in the threads of public projects. In the edits t is the noisier time and s the cleaner.
"""

from __future__ import annotations

from tests.mutants.mutant import Edit, Generates, Mutant

_D = "minidiff.diffusion."
_DDPM = _D + "samplers.ddpm:coefficients"
_DDPM_LOOP = _D + "samplers.ddpm:ddpm"
_DDIM = _D + "samplers.ddim:coefficients"
_DDIM_LOOP = _D + "samplers.ddim:ddim"
_POSTERIOR = _D + "process:posterior"

SCHEDULES = (
    Mutant(
        "linear-to-0.2",
        "lets the linear schedule end at 0.2",
        "E41",
        "A zero is easily lost: DDPM's betas go from 1e-4 to 0.02. With 0.2 the signal is gone "
        "after a fifth of the steps, and the other four fifths are spent on pure noise.",
        (Edit(_D + "schedules:linear", "beta_T: float = 0.02", "beta_T: float = 0.2"),),
        ("diffusion/test_schedules.py::test_linear_is_the_schedule_of_ddpm",),
    ),
    Mutant(
        "betas-not-scaled",
        "keeps the betas as they are when T changes",
        "E39; lucidrains and RFdiffusion #141, I2SB #11",
        "The end points of the linear schedule are meant for T = 1000. With fewer steps the same "
        "betas leave signal in x_T that a sampler does not start with; they must grow by 1000 / T.",
        (Edit(_D + "schedules:_of_betas", "REFERENCE_T / T", "REFERENCE_T / REFERENCE_T"),),
        ("diffusion/test_schedules.py::test_with_scaled_betas_the_limit_is_not_zero",),
    ),
    Mutant(
        "one-beta-too-many",
        "makes T + 1 betas for T steps",
        "the lengths of linspace: lucidrains/denoising-diffusion-pytorch #19",
        "abar has T + 1 entries, with abar_0 = 1 and no beta for it. An array of T + 1 betas puts "
        "one more factor into every abar.",
        (
            Edit(
                _D + "schedules:linear",
                "np.linspace(beta_1, beta_T, check_steps(T))",
                "np.linspace(beta_1, beta_T, check_steps(T) + 1)",
            ),
        ),
        ("diffusion/test_schedules.py::test_linear_is_the_schedule_of_ddpm",),
    ),
    Mutant(
        "cosine-without-f0",
        "leaves out the division by f(0)",
        "E18; the formula has it: Nichol & Dhariwal 2021, eq. 17",
        "With the offset s, f(0) is not 1. Without the division abar does not begin at 1, so the "
        "first step adds more noise than it should.",
        (
            Edit(
                _D + "schedules:_clipped",
                "1 - f[1:] / f[:-1]",
                "1 - f[1:] / np.append(1.0, f[1:-1])",
            ),
        ),
        ("diffusion/test_schedules.py::test_cosine_clips_exactly_one_beta",),
    ),
    Mutant(
        "cosine-without-s",
        "leaves out the offset s of the cosine schedule",
        "E18, where no value for s is given",
        "s = 0.008 keeps the first betas from vanishing. Without it beta_1 is 2.5e-6 at T = 1000, "
        "where a network has next to nothing to predict.",
        (Edit(_D + "schedules:cosine", "s: float = 0.008", "s: float = 0.0"),),
        ("diffusion/test_schedules.py::test_cosine_clips_exactly_one_beta",),
    ),
    Mutant(
        "cosine-not-clipped",
        "does not clip the last beta of the cosine schedule",
        "guided-diffusion #42, MONAI PR #8427",
        "f(T) = 0, so the last beta is 1, and the step that divides by sqrt(alpha_T) divides by 0.",
        (
            Edit(
                _D + "schedules:_clipped",
                "np.minimum(1 - f[1:] / f[:-1], beta_max)",
                "1 - f[1:] / f[:-1]",
            ),
        ),
        ("diffusion/test_schedules.py::test_cosine_clips_exactly_one_beta",),
    ),
    Mutant(
        "cosine-clips-many",
        "clips the cosine schedule at 0.02",
        "E18, where clipping sounds like something for many betas",
        "The bound of 0.999 touches one beta only. The largest beta of the linear schedule is no "
        "bound for the cosine: it would cut the end off, and abar_T would not come near 0.",
        (Edit(_D + "schedules:cosine", "beta_max: float = 0.999", "beta_max: float = 0.02"),),
        ("diffusion/test_schedules.py::test_cosine_clips_exactly_one_beta",),
    ),
    Mutant(
        "index-minus-one",
        "accepts t = 0 where a noisy time is meant",
        "counting from 0 and from 1 in one program: lucidrains/denoising-diffusion-pytorch #159",
        "Then t - 1 = -1, and NumPy reads abar[-1] as abar_T: the cleanest image gets the "
        "coefficients of the noisiest, without an error.",
        (
            Edit(
                _D + "schedules:check_t",
                "first: int = 1",
                "first: int = 0",
            ),
        ),
        ("diffusion/test_schedules.py::test_times_outside_are_refused",),
    ),
    Mutant(
        "leading-by-default",
        "starts at T - T/S + 1 instead of T",
        "diffusers #2585, improved-diffusion #44, stable-diffusion #686",
        "Sampling starts from pure noise, which is x_T. Told that it sees x_981, the model takes "
        "part of the noise for signal.",
        (Edit(_D + "timesteps:subset", 'spacing: str = "trailing"', 'spacing: str = "leading"'),),
        ("diffusion/test_timesteps.py::test_trailing_is_the_default",),
    ),
    Mutant(
        "loop-runs-forward",
        "samples from t = 1 up to T",
        "nathan-barry/tiny-diffusion #2",
        "Training may take the times in any order. A sampler goes from noise to data, from T down.",
        (
            Edit(
                _D + "timesteps:trailing",
                "np.arange(steps, 0, -1)",
                "np.arange(1, steps + 1)",
            ),
        ),
        ("diffusion/test_timesteps.py::test_every_subset",),
    ),
    Mutant(
        "times-counted-from-0",
        "begins a subsequence at T - 1",
        "MONAI GenerativeModels #397",
        "A subsequence begins with T. An index into an array of T entries is smaller by one than "
        "the time that it stands for.",
        (
            Edit(
                _D + "timesteps:trailing",
                "T * np.arange(steps, 0, -1) / steps",
                "np.maximum(T * np.arange(steps, 0, -1) / steps - 1, np.arange(steps, 0, -1))",
            ),
        ),
        ("diffusion/test_timesteps.py::test_published_choices_of_ten",),
    ),
)

PROCESS = (
    Mutant(
        "alpha-for-abar",
        "uses alpha_t where abar_t is meant",
        "E26, where brackets hide which product is meant",
        "alpha_t is the signal that one step keeps, abar_t what all t of them keep together. With "
        "alpha_t an image never becomes noise, however large t is.",
        (
            Edit(
                _D + "process:forward",
                "a = schedule.abar[t] / schedule.abar[s]",
                "a = schedule.alpha[t]",
            ),
        ),
        ("diffusion/test_process.py::test_the_jump_and_the_chain_draw_the_same_distribution",),
    ),
    Mutant(
        "variance-for-its-root",
        "multiplies the noise by 1 - abar_t, without the root",
        "annotated_deep_learning_paper_implementations #152, #220",
        "1 - abar_t is the variance of x_t. What noise of variance 1 is multiplied by is the "
        "standard deviation.",
        (
            Edit(
                _D + "process:forward_sample",
                "per_image(np.sqrt(variance), xs)",
                "per_image(variance, xs)",
            ),
        ),
        ("diffusion/test_process.py::test_the_jump_and_the_chain_draw_the_same_distribution",),
    ),
    Mutant(
        "beta-for-posterior",
        "takes beta_t for the variance of the posterior",
        "E25, printed twice: the tilde was lost",
        "Who knows x_0 knows more: q(x_{t-1} | x_t, x_0) is narrower than q(x_t | x_{t-1}), "
        "and at t = 1 it has no variance at all.",
        (Edit(_POSTERIOR, "(1 - abar_s) * jump,", "1 - a,"),),
        ("diffusion/test_process.py::test_published_posterior_variances",),
    ),
    Mutant(
        "posterior-coefficients-swapped",
        "gives the coefficient of x_t to x_0, and that of x_0 to x_t",
        "two coefficients that look alike in the same sum",
        "Near t = T the mean of the posterior is nearly x_t, so its coefficient is close to 1; "
        "near t = 1 it is x_0 that counts.",
        (
            Edit(
                _POSTERIOR,
                "np.sqrt(abar_s) * jump,\n        np.sqrt(a) * (1 - abar_s) / (1 - abar_t),",
                "np.sqrt(a) * (1 - abar_s) / (1 - abar_t),\n        np.sqrt(abar_s) * jump,",
            ),
        ),
        (
            "diffusion/test_process.py::test_the_last_step_is_exact",
            "diffusion/test_process.py::test_the_posterior_keeps_the_marginal",
        ),
    ),
    Mutant(
        "t-for-t-minus-1",
        "has abar_t where the posterior has abar_{t-1}",
        "E12, where every index of a step is the same",
        "The posterior is one of x_{t-1}. With the index t in its mean it describes where the "
        "step comes from, not where it goes to.",
        (Edit(_POSTERIOR, "np.sqrt(abar_s) * jump,", "np.sqrt(abar_t) * jump,"),),
        (
            "diffusion/test_process.py::test_the_last_step_is_exact",
            "diffusion/test_process.py::test_the_posterior_keeps_the_marginal",
        ),
    ),
    Mutant(
        "one-step-for-a-jump",
        "uses alpha_t in the posterior of a jump over many steps",
        "E21; diffusers PR #3006",
        "Between t and s lie all the steps from s + 1 to t: the share of the signal that they keep "
        "is abar_t / abar_s. alpha_t is that of the last of them alone.",
        (Edit(_POSTERIOR, "\n    a = abar_t / abar_s\n", "\n    a = schedule.alpha[t]\n"),),
        ("diffusion/test_ddim.py::test_published_variances",),
    ),
    Mutant(
        "covariance-of-two-times",
        "takes Cov(x_s, x_t) = a Var(x_s)",
        "E31, which needs this covariance and does not give it",
        "x_t = sqrt(a) x_s + noise, so the covariance has one factor sqrt(a). The variance of x_t "
        "has two.",
        (
            Edit(
                _D + "oracle:GaussianMixture.reverse",
                "gain, left = math.sqrt(a) * before / after",
                "gain, left = a * before / after",
            ),
        ),
        ("diffusion/test_oracle.py::test_the_reverse_kernel_is_that_of_bayes",),
    ),
)

PARAMETERIZATIONS = (
    Mutant(
        "eps-added",
        "adds the predicted noise instead of taking it off",
        "E27, where the minus sign of Algorithm 2 is lost",
        "x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps: to come to x_0, noise is subtracted.",
        (
            Edit(
                _D + "parameterizations:mu_from_eps",
                "(xt - per_image(beta",
                "(xt + per_image(beta",
            ),
        ),
        ("diffusion/test_parameterizations.py::test_both_forms_of_the_mean_agree",),
    ),
    Mutant(
        "abar-without-index",
        "uses one sqrt(1 - abar) for all t",
        "E2, where the abar of Algorithm 2 has no index",
        "Every step has its own abar_t.",
        (
            Edit(
                _D + "parameterizations:mu_from_eps",
                "schedule.abar[t]",
                "schedule.abar[-1]",
            ),
        ),
        ("diffusion/test_parameterizations.py::test_both_forms_of_the_mean_agree",),
    ),
    Mutant(
        "sign-of-the-score",
        "has the score point the way of the noise",
        "a sign that conventions hide",
        "The score points uphill, to more likely images, and noise leads away from them: "
        "score = -eps / sqrt(1 - abar_t).",
        (
            Edit(
                _D + "parameterizations:score_from_eps",
                "return -eps /",
                "return eps /",
            ),
        ),
        ("diffusion/test_parameterizations.py::test_any_to_any",),
    ),
    Mutant(
        "sign-of-v",
        "swaps the signs in v",
        "Salimans & Ho 2022 write v = alpha eps - sigma x",
        "v is the direction in which x_t moves as noise takes over: away from x_0, so x_0 has the "
        "minus sign.",
        (
            Edit(
                _D + "parameterizations:v_from_x0_eps",
                "signal * eps - noise * x0",
                "noise * x0 - signal * eps",
            ),
        ),
        ("diffusion/test_parameterizations.py::test_any_to_any",),
    ),
    Mutant(
        "stale-eps",
        "clips x_0 and goes on with the eps from before",
        "what follows from clipping in one place and stepping in another",
        "x_0 and eps describe one x_t together. Once x_0 is clipped, the old eps belongs to "
        "another x_t, and DDIM's step, which mixes both, leaves the process.",
        (
            Edit(
                _D + "parameterizations:pair",
                "return x0, eps_from_x0(schedule, xt, t, x0)",
                "return x0, _PAIR_FROM[source](schedule, xt, t, value)[1]",
            ),
        ),
        ("diffusion/test_ddim.py::test_a_stale_eps_after_clipping_would_be_seen",),
    ),
    Mutant(
        "threshold-clamps-the-wrong-side",
        "takes s = min(1, q) for the dynamic threshold",
        "diffusers PR #3003",
        "s must not fall below 1: an image that lies within [-1, 1] is left as it is. With the "
        "minimum, images are stretched, and those out of range are not brought back.",
        (
            Edit(
                _D + "parameterizations:dynamic_threshold",
                "xp.maximum(q, 1)",
                "xp.minimum(q, 1)",
            ),
        ),
        ("diffusion/test_parameterizations.py::test_dynamic_thresholding",),
    ),
    Mutant(
        "threshold-of-the-batch",
        "takes one threshold for the whole batch",
        "E23, where dynamic thresholding is named and not defined",
        "The quantile is that of each image. With one for all, an image depends on those that "
        "happen to be drawn beside it.",
        (
            Edit(
                _D + "parameterizations:dynamic_threshold",
                "q = ordered[:, k]",
                "ordered = ordered * 0 + ordered.max(0)\n    q = ordered[:, k]",
            ),
        ),
        ("diffusion/test_parameterizations.py::test_dynamic_thresholding",),
    ),
    Mutant(
        "threshold-without-division",
        "clips to [-s, s] and does not divide by s",
        "E23",
        "The division brings the image back to [-1, 1]; clipping at s > 1 alone leaves it out.",
        (
            Edit(
                _D + "parameterizations:dynamic_threshold",
                "    clipped /= s\n",
                "",
            ),
        ),
        ("diffusion/test_parameterizations.py::test_dynamic_thresholding",),
    ),
)

_RECURSION = "diffusion/test_exact.py::test_samplers_generate_what_the_recursion_says"
_DDPM_50 = _RECURSION + "['variance': 'beta', 'steps': 50]"
_DDPM_7 = _RECURSION + "['variance': 'posterior', 'steps': 7]"
_DDIM_50 = _RECURSION + "[{'steps': 50}]"
_DDIM_HALF = _RECURSION + "['eta': 0.5]"
_BETA = {"variance": "beta"}

ANCESTRAL = (
    Mutant(
        "noise-at-the-last-step",
        "adds noise in the last step too",
        "an `if t > 0` in a loop that ends at t = 1",
        "The last step is the answer: z = 0 there. The noise has a standard deviation of 0.01, "
        "which nobody sees in a picture, and which is all there is of the data's own if it is a "
        "point.",
        (
            Edit(
                _DDPM,
                "    if s == 0:\n        return c_0, c_t, 0.0\n",
                "",
            ),
        ),
        (_DDPM_50,),
        Generates("ddpm", _BETA, 1.0000, 1.0e-4),
    ),
    Mutant(
        "variance-for-sigma",
        "multiplies z by the variance",
        "a root that is forgotten: zoubohao/DenoisingDiffusionProbabilityModel-ddpm- #18",
        "sigma_t z with sigma_t^2 = beta_t. At beta = 0.01 that is a tenth of the noise, and the "
        "samples collapse to the mean.",
        (Edit(_DDPM, "math.sqrt(lookup(", "abs(lookup("),),
        (_DDPM_50,),
        Generates("ddpm", _BETA, 0.0056, 2.7e-16),
    ),
    Mutant(
        "eps-one-level-off",
        "asks the network at t - 1, where it was trained at t",
        "slots from 0 to T - 1 in one place, times from 1 to T in another",
        "The network is told a noise level that is a little too low. Pictures look fine; for "
        "N(0, 1) the variance is off by one percent.",
        (
            Edit(
                _DDPM_LOOP,
                "predict(denoiser, x, t, cond)",
                "predict(denoiser, x, max(t - 1, 1), cond)",
            ),
        ),
        (_DDPM_50,),
        Generates("ddpm", _BETA, 1.0089, 1.3e-12),
    ),
    Mutant(
        "x0-with-eps-added",
        "adds the noise when it predicts x_0",
        "E27 in the form in x_0",
        "x_0 = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t). With a plus every step goes away from "
        "the data, and samples explode.",
        (
            Edit(
                _D + "parameterizations:x0_from_eps",
                "(xt - noise * eps)",
                "(xt + noise * eps)",
            ),
        ),
        ("diffusion/test_parameterizations.py::test_any_to_any",),
    ),
    Mutant(
        "beta-where-posterior-is-asked-for",
        "draws with beta_t where beta-tilde_t is asked for",
        "guided-diffusion #69, improved-diffusion #45",
        "Both are in the paper, and they are not the same: beta_t is right for data N(0, I), "
        "beta-tilde_t for a single point. For N(0, 1) they give variances of 0.9999 and 0.9911.",
        (Edit(_DDPM, '"posterior": tilde', '"posterior": beta'),),
        (_DDPM_7,),
        Generates("ddpm", {"variance": "posterior"}, 0.9999, 1.8e-12),
    ),
    Mutant(
        "posterior-where-beta-is-asked-for",
        "draws with beta-tilde_t where beta_t is asked for",
        "PhysicsInformedDiffusionModels #4",
        "See the one before: the other way round.",
        (Edit(_DDPM, '"beta": beta', '"beta": tilde'),),
        (_DDPM_50,),
        Generates("ddpm", _BETA, 0.99107, 1.0e-12),
    ),
    Mutant(
        "beta-of-one-step-for-a-jump",
        "uses beta_t in a jump over many steps",
        "E21; diffusers PR #3006",
        "A jump from t to s adds the noise of all its steps, 1 - abar_t / abar_s. With beta_t "
        "twenty steps draw the noise of one.",
        (
            Edit(
                _DDPM,
                "beta = process.forward(schedule, s, t)[1]",
                "beta = float(schedule.beta[t])",
            ),
        ),
        (_DDPM_50,),
    ),
    Mutant(
        "variance-interpolated",
        "interpolates the learned variance itself, not its logarithm",
        "Nichol & Dhariwal 2021, eq. 15, read quickly",
        "sigma^2 = exp(v log beta + (1 - v) log beta-tilde). Near t = 1 the two differ by orders "
        "of magnitude, and all of them must be within reach of v.",
        (
            Edit(
                _D + "samplers.ddpm:learned_sigma",
                "math.sqrt(tilde) * backend.array_module(v).exp("
                "(0.5 * math.log(beta / tilde)) * v)",
                "backend.array_module(v).sqrt(v * beta + (1 - v) * tilde)",
            ),
        ),
        (
            "diffusion/test_ddpm.py::TestLearnedVariance::"
            "test_the_variance_of_the_data_comes_out_with_the_v_that_is_right_for_it",
        ),
    ),
    Mutant(
        "log-variance-for-log-sigma",
        "takes the logarithm of the variance for that of the standard deviation",
        "improved-diffusion #126, diffusers #14569",
        "sigma = exp(log sigma^2 / 2). Without the half, noise of the wrong size is drawn, and "
        "where the variance is below 1 it is too small.",
        (
            Edit(
                _D + "samplers.ddpm:learned_sigma",
                "(0.5 * math.log(beta / tilde))",
                "math.log(beta / tilde)",
            ),
        ),
        ("diffusion/test_ddpm.py::TestLearnedVariance::test_its_ends_are_the_two_fixed_variances",),
    ),
)

_ETA_1 = {"steps": None, "eta": 1.0}

DDIM = (
    Mutant(
        "minus-the-direction",
        "subtracts the direction that points to x_t",
        "a NumPy implementation that many read",
        "x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s - sigma^2) eps + sigma z: x_s is an image with "
        "noise, and eps is that noise. Subtracted, it fights the noise drawn before, and of the "
        "variance of N(0, 1) 0.015 are left. A picture still shows something.",
        (Edit(_DDIM_LOOP, "c_eps, eps, sigma, rng", "-c_eps, eps, sigma, rng"),),
        (_DDIM_50,),
        Generates("ddim", _ETA_1, 0.0152, 1.0e-12),
    ),
    Mutant(
        "last-abar-is-abar-1",
        "aims at abar_1 in the last step",
        "latent-diffusion #136, stablediffusion PR #345, lucidrains #81, #220",
        "The last step goes to t = 0, where abar is 1. With abar_1 in its place the sample keeps "
        "the noise of t = 1.",
        (
            Edit(
                _DDIM,
                "abar_s = schedule.abar[s]",
                "abar_s = schedule.abar[np.maximum(s, 1)]",
            ),
        ),
        (_DDIM_50,),
        Generates("ddim", {"steps": 50}, 0.92975, 1.0e-4),
    ),
    Mutant(
        "stops-at-x1",
        "returns x_1",
        "a loop over t = T, ..., 2",
        "x_1 still has noise in it. There are T steps from x_T to x_0.",
        (Edit(_DDIM_LOOP, "pairwise(times)", "pairwise(times[:-1])"),),
        (_DDIM_50,),
        Generates("ddim", {"steps": None}, 0.99635, 1.0e-4),
    ),
    Mutant(
        "first-times-only",
        "visits t = S, ..., 1 in place of a subset of all times, and returns x_1",
        "a NumPy implementation that many read",
        "S steps are spread over all times, from T on. The first S times see pure noise called "
        "x_S, in which the model finds an image that is not there. For data of mean 0 one hardly "
        "notices.",
        (
            Edit(
                _D + "timesteps:trailing",
                "T * np.arange(steps, 0, -1) / steps",
                "1.0 * np.arange(steps, 0, -1)",
            ),
            Edit(_DDIM_LOOP, "pairwise(times)", "pairwise(times[:-1])"),
        ),
        (_DDIM_50,),
        Generates("ddim", {"steps": 100, "eta": 1.0}, 0.9962, 1.0e-4),
    ),
    Mutant(
        "eta-not-squared",
        "takes sigma^2 = eta beta-tilde",
        "E11; lucidrains #93, PR #139",
        "eta scales the standard deviation: sigma = eta sqrt(beta-tilde). At eta = 0 and 1 it is "
        "all the same, and in between not.",
        (Edit(_DDIM, "sigma2 = eta**2 *", "sigma2 = eta *"),),
        (_DDIM_HALF,),
        Generates("ddim", {"steps": 50, "eta": 0.5}, 0.8962, 0.0),
    ),
    Mutant(
        "eta-times-the-variance",
        "takes sigma = eta beta-tilde, without the root",
        "DDPM_inversion #12",
        "beta-tilde is a variance, and z is multiplied by a standard deviation. The rest of the "
        "step has the right sigma, so the marginals of q are lost.",
        (
            Edit(
                _DDIM,
                "np.sqrt(1 - abar_s - sigma2), np.sqrt(sigma2)",
                "np.sqrt(1 - abar_s - sigma2), sigma2",
            ),
        ),
        ("diffusion/test_ddim.py::test_published_variances",),
    ),
    Mutant(
        "beta-in-a-ddim-jump",
        "uses eta^2 beta_t for the variance of a jump",
        "E21; diffusers PR #3006",
        "The variance of DDIM is that of the posterior of the jump, of which beta_t knows nothing.",
        (
            Edit(
                _DDIM,
                "np.asarray(process.posterior(schedule, s, t)[2])",
                "np.minimum(schedule.beta[t], 1 - schedule.abar[s])",
            ),
        ),
        ("diffusion/test_ddim.py::test_published_variances",),
    ),
    Mutant(
        "any-eta",
        "accepts any eta >= 0",
        "E17: eta in R+",
        "Beyond a bound (1.354 for the linear schedule) 1 - abar_s - sigma^2 is negative, its root "
        "is NaN, and so is the image. The bound depends on the schedule and the steps.",
        (Edit(_D + "samplers.ddim:_check_eta", "if eta > largest:", "if eta > math.inf:"),),
        ("diffusion/test_ddim.py::test_the_largest_eta_that_an_error_names_is_accepted",),
    ),
    Mutant(
        "every-index-is-t",
        "keeps abar_t as the signal of x_s",
        "E12, where left and right of the step have the same index",
        "The step goes to x_s, so signal and noise are those of s.",
        (Edit(_DDIM, "floats(np.sqrt(abar_s),", "floats(np.sqrt(schedule.abar[t]),"),),
        (_DDIM_50,),
    ),
    Mutant(
        "inversion-asks-at-the-noisy-end",
        "asks the model at t on the way from s to t",
        "DDIM's step read backwards",
        "x_s is the image that the model is shown, so s is the time that goes with it.",
        (
            Edit(
                _D + "samplers.inversion:ddim_inversion",
                "max(s, 1), cond",
                "t, cond",
            ),
        ),
        ("diffusion/test_inversion.py::test_the_model_is_asked_at_the_clean_end_of_each_step",),
    ),
)

SOLVERS = (
    Mutant(
        "network-sees-the-unscaled-image",
        "gives the network x_0 + sigma n in place of x_t",
        "E19; DAPS #11, SVD_Xtend #19: weights of DDPM in a sampler in sigma",
        "A network of x_t expects variance 1. The image in sigma must be divided by "
        "sqrt(1 + sigma^2) first.",
        (
            Edit(
                _D + "sigma:sigma_denoiser",
                "scale = 1 / math.sqrt(1 + sigma**2)",
                "scale = 1",
            ),
        ),
        ("diffusion/test_sigma.py::test_the_adapter_gives_the_prediction_of_x0",),
    ),
    Mutant(
        "weights-of-heun-for-all",
        "averages both slopes, whatever alpha is",
        "Karras et al. 2022, Algorithm 3, read as Heun's",
        "w = 1 / (2 alpha): the midpoint method takes the second slope alone. Equal weights are "
        "of second order for alpha = 1 only.",
        (Edit(_D + "samplers.rk2:step", "w, h = 1 / (2 * alpha)", "w, h = 1 / 2"),),
        ("diffusion/test_rk2.py::test_the_methods_that_alpha_names",),
    ),
    Mutant(
        "churn-adds-levels",
        "raises the noise from sigma to sigma_hat with noise of size sigma_hat - sigma",
        "Karras et al. 2022, Algorithm 2, line 6",
        "Variances add, not standard deviations: the noise is sqrt(sigma_hat^2 - sigma^2).",
        (
            Edit(
                _D + "samplers.edm:edm",
                "math.sqrt(raised**2 - sigma**2)",
                "(raised - sigma)",
            ),
        ),
        ("diffusion/test_edm.py::test_the_noise_added_makes_up_the_difference_of_variances",),
    ),
    Mutant(
        "down-and-up-add",
        "splits a level into sigma_down + sigma_up",
        "Euler's ancestral step, where variances add",
        "sigma_down^2 + sigma_up^2 must be the square of the level that is asked for.",
        (
            Edit(
                _D + "samplers.euler_ancestral:split",
                "lower * math.sqrt(1 - ratio * ratio)",
                "lower * (1 - ratio)",
            ),
        ),
        ("diffusion/test_euler.py::test_down_and_up_make_the_level_asked_for",),
    ),
    Mutant(
        "ratio-of-steps-inverted",
        "inverts the ratio r of the steps in DPM-Solver++(2M)",
        "Lu et al. 2022b, Algorithm 2: r is the last step over this one",
        "The longer ago the last prediction is, the less it counts in the extrapolation.",
        (
            Edit(
                _D + "samplers.dpmpp_2m:dpmpp_2m",
                "2 * math.log(before / sigma) / math.log(sigma / lower)",
                "2 * math.log(sigma / lower) / math.log(before / sigma)",
            ),
        ),
        ("diffusion/test_dpmpp_2m.py::test_it_is_the_algorithm_as_printed",),
    ),
    Mutant(
        "history-from-the-wrong-end",
        "gives the weights 55, -59, 37, -9 to the oldest eps first",
        "a history that is kept newest last, and weights that are written newest first",
        "55/24 belongs to the newest value.",
        (
            Edit(
                _D + "samplers.plms:multistep",
                "newest_first = history[: -len(WEIGHTS) - 1 : -1]",
                "newest_first = history[-len(WEIGHTS) :]",
            ),
        ),
        (
            "diffusion/test_pndm.py::test_multistep_weights_are_those_of_adams_and_bashforth",
            "diffusion/test_pndm.py::test_published_runs",
        ),
    ),
    Mutant(
        "equal-runge-kutta-weights",
        "averages the four slopes of Runge-Kutta",
        "Liu et al. 2022, section 3",
        "The two slopes halfway count twice: (e1 + 2 e2 + 2 e3 + e4) / 6.",
        (
            Edit(
                _D + "samplers.pndm:runge_kutta",
                "(e1 + 2 * (e2 + e3) + e4) / 6",
                "(e1 + e2 + e3 + e4) / 4",
            ),
        ),
        ("diffusion/test_pndm.py::test_published_runs",),
    ),
    Mutant(
        "three-steps-are-enough",
        "runs PNDM with fewer than four steps",
        "diffusers #9090, #1106",
        "The four-step formula needs four values of eps, and the steps of the start make them.",
        (
            Edit(
                _D + "samplers.plms:pseudo",
                "if len(times) - 1 < MIN_STEPS:",
                "if len(times) - 1 < 1:",
            ),
        ),
        ("diffusion/test_samplers.py::test_bad_arguments_are_refused_at_the_call",),
    ),
    Mutant(
        "langevin-drift-not-halved",
        "moves by alpha times the score",
        "Song & Ermon 2019, eq. 4: two conventions for the step are in use",
        "With noise sqrt(alpha) z the drift is alpha / 2. Twice the drift halves the variance that "
        "the dynamics settles at.",
        (
            Edit(
                _D + "samplers.langevin:langevin_step",
                "alpha / 2 * score",
                "alpha * score",
            ),
        ),
        ("diffusion/test_langevin.py::test_a_step_of_finite_size_widens_a_gaussian",),
    ),
    Mutant(
        "flow-with-all-of-the-score",
        "has the probability flow follow the whole score",
        "the drift of the reverse SDE, without its noise",
        "Without noise half of g^2 times the score keeps the marginals. The other half is what "
        "balances the noise of the reverse SDE.",
        (
            Edit(
                _D + "sde:SDE.probability_flow",
                "np.square(self.diffusion(t)) / 2",
                "np.square(self.diffusion(t))",
            ),
        ),
        ("diffusion/test_sde.py::test_both_ways_back_differ_by_half_of_the_noise",),
    ),
    Mutant(
        "g-not-squared",
        "multiplies the score by g in the reverse SDE",
        "Song et al. 2021 (score SDE), eq. 6",
        "g scales the noise, so g^2 is what it adds to the variance in dt, and that is what the "
        "score has to make up for.",
        (
            Edit(
                _D + "sde:SDE.reverse_drift",
                "np.square(self.diffusion(t))",
                "self.diffusion(t)",
            ),
        ),
        ("diffusion/test_sde.py::test_both_ways_back_differ_by_half_of_the_noise",),
    ),
    Mutant(
        "density-changes-the-wrong-way",
        "adds the divergence where the log density loses it",
        "Song et al. 2021 (score SDE), eq. 39",
        "Where a flow spreads, the density falls: d log q = -div dt along it. The integral that "
        "leads back to the data has the other sign.",
        (
            Edit(
                _D + "ode:log_likelihood",
                "return x - x0, d - trace",
                "return x - x0, trace - d",
            ),
        ),
        ("diffusion/test_ode.py::test_so_it_is_given_a_class",),
    ),
    Mutant(
        "known-part-one-level-off",
        "pastes the known pixels in with the noise of t, where the rest is at s",
        "Lugmayr et al. 2022, Algorithm 1, whose indices are those of the result",
        "After the step from t to s the whole image is at s. A part with more noise than that is "
        "taken for texture by the next step.",
        (
            Edit(
                _D + "inpainting:inpaint",
                "process.q_sample(schedule, known, s, noise())",
                "process.q_sample(schedule, known, t, noise())",
            ),
        ),
        (
            "diffusion/test_inpainting.py::"
            "test_the_known_part_is_noised_to_the_time_that_the_rest_has",
        ),
    ),
    Mutant(
        "interpolation-shrinks-noise",
        "mixes the noises of two images as it mixes the images",
        "E34; Ho et al. 2020, section 4.4",
        "(1 - lambda) eps + lambda eps' has variance 1/2 in the middle. The denoiser is told t, "
        "and sees less noise than there is at t.",
        (
            Edit(
                _D + "interpolation:variance_preserving",
                "np.sqrt(lam**2 + (1 - lam) ** 2)",
                "np.ones_like(lam)",
            ),
        ),
        ("diffusion/test_interpolation.py::test_the_variance_of_the_noise",),
    ),
    Mutant(
        "interpolation-starts-below",
        "noises both images to t and denoises from t - 1",
        "lucidrains #159, ilvr_adm #13",
        "The step from t to t - 1 is missing: the sampler takes the noise of t for that of t - 1, "
        "and leaves some of it.",
        (
            Edit(
                _D + "interpolation:interpolate",
                "timesteps.subset(t, t if steps is None else steps)",
                "timesteps.subset(t - 1, t - 1 if steps is None else steps)",
            ),
        ),
        ("diffusion/test_interpolation.py::test_it_is_denoised_from_the_time_it_was_noised_to",),
    ),
)

_CFG = _D + "guidance:classifier_free"
_GUIDED = "diffusion/test_guidance.py::test_what_guidance_generates_from_gaussians[w=1, mean]"
_FORMULA = "diffusion/test_guidance.py::test_one_call_of_twice_the_batch"

GUIDANCE = (
    Mutant(
        "guidance-the-wrong-way",
        "takes larger w for less condition",
        "E10: large w is called unconditional",
        "w = -1 is the unconditional model, 0 the conditional one, and beyond it the condition "
        "counts ever more.",
        (
            Edit(
                _CFG,
                "(1 + weight) * cond - weight * eps[n:]",
                "(1 + weight) * eps[n:] - weight * cond",
            ),
        ),
        (_GUIDED,),
    ),
    Mutant(
        "guidance-adds-the-unconditional",
        "adds w times the unconditional noise",
        "a sign",
        "The two weights sum to 1: 1 + w and -w. With a plus the noise is 1 + 2 w times too large.",
        (
            Edit(
                _CFG,
                "(1 + weight) * cond - weight * eps[n:]",
                "(1 + weight) * cond + weight * eps[n:]",
            ),
        ),
        (_FORMULA,),
    ),
    Mutant(
        "weight-read-as-scale",
        "reads w as the scale of the other convention",
        "diffusers #5882, #9680; lucidrains #207; LCM #59",
        "eps(null) + s (eps(c) - eps(null)) has no guidance at s = 1, the paper's form at w = 0: "
        "s = 1 + w. One read for the other is guided by 1 less, or more.",
        (
            Edit(
                _CFG,
                "(1 + weight) * cond - weight * eps[n:]",
                "weight * cond + (1 - weight) * eps[n:]",
            ),
        ),
        (_FORMULA,),
    ),
    Mutant(
        "scale-is-weight",
        "converts a weight to a scale by doing nothing",
        "stable-dreamfusion #32, ControlNet #644",
        "s = 1 + w.",
        (Edit(_D + "guidance:to_scale", "return 1 + w", "return w"),),
        ("diffusion/test_guidance.py::test_conversion_to_a_scale",),
    ),
    Mutant(
        "one-coin-for-the-batch",
        "drops the labels of all rows or of none",
        "DALLE2-pytorch #47, beso #1",
        "Each example has its own coin. With one for the batch the gradient is that of one model "
        "or of the other, and never of both.",
        (Edit(_D + "objectives:drop_labels", "rng.random(len(labels)) <", "rng.random() <"),),
        ("diffusion/test_objectives.py::test_the_share_of_dropped_rows",),
    ),
    Mutant(
        "mask-inverted",
        "keeps the labels that it should drop",
        "DALLE2-pytorch #235, SVD_Xtend #54",
        "p_uncond is the share that is replaced by the null class, not the share that stays.",
        (
            Edit(
                _D + "objectives:drop_labels",
                "np.where(drop, null, labels)",
                "np.where(drop, labels, null)",
            ),
        ),
        ("diffusion/test_objectives.py::test_the_share_of_dropped_rows",),
    ),
    Mutant(
        "classifier-pushes-away",
        "adds the gradient of the classifier to eps",
        "eps and score have opposite signs",
        "The score gets + grad log p(c | x_t), so eps, which points the other way, gets a minus.",
        (
            Edit(
                _D + "guidance:classifier",
                "eps = eps - per_image(",
                "eps = eps + per_image(",
            ),
        ),
        (
            "diffusion/test_guidance.py::test_the_gradient_of_a_classifier_is_a_difference_of_noises",
        ),
    ),
    Mutant(
        "classifier-without-sigma",
        "leaves out sqrt(1 - abar_t) before the gradient",
        "Dhariwal & Nichol 2021, Algorithm 2",
        "The gradient belongs to the score, and eps = -sqrt(1 - abar_t) score.",
        (
            Edit(
                _D + "guidance:classifier",
                "scale * _noise(schedule, t)",
                "scale + 0 * _noise(schedule, t)",
            ),
        ),
        (
            "diffusion/test_guidance.py::test_the_gradient_of_a_classifier_is_a_difference_of_noises",
        ),
    ),
    Mutant(
        "spread-of-the-batch",
        "rescales guidance by the standard deviation of the whole batch",
        "Lin et al. 2024, section 3.4",
        "The standard deviation is taken over the elements of each image by itself.",
        (
            Edit(
                _D + "guidance:_spread",
                "flat.std(axis=1)",
                "(flat.std(axis=1) * 0 + flat.std())",
            ),
        ),
        ("diffusion/test_guidance.py::test_rescaling_brings_the_spread_of_each_image_back",),
    ),
)

_WEIGHT = _D + "objectives:vlb_weight_nats"

BOUNDS = (
    Mutant(
        "last-time-never-drawn",
        "draws t from 1 to T - 1",
        "random integers whose upper end is left out",
        "Sampling begins at T. What training has never shown the network there, it has to guess.",
        (
            Edit(
                _D + "objectives:draw_t",
                "size=n, endpoint=True",
                "size=n",
            ),
        ),
        ("diffusion/test_objectives.py::test_times_are_uniform_on_1_to_T",),
    ),
    Mutant(
        "kl-reversed",
        "swaps the two distributions of the KL divergence",
        "E38",
        "KL(q || p) is not KL(p || q). The bound has the expectation over q, from which x_t is "
        "drawn.",
        (
            Edit(
                _D + "elbo:kl_normal_nats",
                "r_1 = (variance - other_variance) / other_variance",
                "variance, other_variance = other_variance, variance\n"
                "    r_1 = (variance - other_variance) / other_variance",
            ),
        ),
        ("diffusion/test_elbo.py::test_the_prior_term_is_a_kl",),
    ),
    Mutant(
        "nats-called-bits",
        "divides by the number of elements, and not by log 2",
        "improved-diffusion #114, #126; DiT #52",
        "The formulas give nats. A bit is log 2 = 0.693 of them, so a bound in nats looks better "
        "than it is.",
        (
            Edit(
                _D + "elbo:bits_per_dim",
                "(dims * math.log(2))",
                "dims",
            ),
        ),
        (
            "diffusion/test_elbo.py::test_the_prior_term_is_small_and_not_zero",
            "diffusion/test_elbo.py::test_units_and_dimensions",
        ),
    ),
    Mutant(
        "bits-of-the-image",
        "does not divide by the number of elements",
        "ddpm-torch #9",
        "Bits per dimension compare images of different sizes; of a whole image they grow with it.",
        (
            Edit(
                _D + "elbo:bits_per_dim",
                "(dims * math.log(2))",
                "math.log(2)",
            ),
        ),
        ("diffusion/test_elbo.py::test_units_and_dimensions",),
    ),
    Mutant(
        "prior-term-is-zero",
        "takes L_T for 0",
        "E9: the prior term becomes zero",
        "It has nothing to learn, and it is small, but it belongs to the bound: 0.089 bits for an "
        "image of 3072 elements, and 14 with T = 500 and the same betas.",
        (
            Edit(
                _D + "elbo:prior_nats",
                "return 0.5 *",
                "return 0.0 *",
            ),
        ),
        ("diffusion/test_elbo.py::test_the_prior_term_is_small_and_not_zero",),
    ),
    Mutant(
        "no-decoder-at-t-1",
        "treats t = 1 like every other t",
        "E33",
        "The posterior has no variance at t = 1, and a KL of it is infinite. In its place the "
        "bound has the likelihood of x_0 given x_1.",
        (
            Edit(
                _D + "objectives:step_nats_per_dim",
                "np.where(first, 0.5 * np.log(2 * np.pi * s2), rest)",
                "np.where(first, rest, rest)",
            ),
        ),
        (
            "diffusion/test_elbo.py::test_the_bound_is_the_entropy_of_normal_data_with_variance_beta",
        ),
    ),
    Mutant(
        "sigma-typo-in-the-weight",
        "divides by 2 sigma in place of 2 sigma^2",
        "E1, where the exponent and an index ran together",
        "The KL of two Gaussians with the same variance is the squared distance of their means "
        "over 2 sigma^2.",
        (Edit(_WEIGHT, "/ (2 * sigma2)", "/ (2 * np.sqrt(sigma2))"),),
        (
            "diffusion/test_elbo.py::test_the_bound_is_the_entropy_of_normal_data_with_variance_beta",
        ),
    ),
    Mutant(
        "weights-of-1",
        "uses the weights of L_simple in the bound",
        "E6; the weights are dropped for better pictures, not for a bound",
        "L_simple weighs every t alike. In the bound the weight of eps falls by a factor of 49 "
        "from t = 1 to T (with a minimum at t = 349 between): without the weights there is no "
        "likelihood.",
        (
            Edit(
                _WEIGHT,
                "(c_0 * slope_of(*_coefficients(schedule, t))) ** 2 / (2 * sigma2)",
                "np.ones_like(schedule.beta[t])",
            ),
        ),
        (
            "diffusion/test_elbo.py::test_the_bound_is_the_entropy_of_normal_data_with_variance_beta",
        ),
    ),
    Mutant(
        "infinite-weight-at-t-1",
        "lets the variance of the model be beta-tilde_1 = 0",
        "E7: the variance in the loss and that in the sampler",
        "With variance 0 the weight of t = 1 is infinite, and x_0 would have no density. The "
        "decoder needs a variance of its own; beta-tilde_2 is the usual one.",
        (
            Edit(
                _D + "objectives:model_variance",
                "np.maximum(t, 2)",
                "t",
            ),
        ),
        (
            "diffusion/test_objectives_vlb.py::"
            "test_at_t_1_the_posterior_variance_is_replaced_by_the_next",
        ),
    ),
    Mutant(
        "log-variance-interpolated-backwards",
        "gives v = 1 to beta-tilde and v = 0 to beta",
        "Nichol & Dhariwal 2021, eq. 15",
        "v log beta + (1 - v) log beta-tilde: v = 1 is beta.",
        (
            Edit(
                _D + "objectives:log_variance_ratio",
                "return v * per_image",
                "return (1 - v) * per_image",
            ),
        ),
        ("diffusion/test_elbo.py::test_a_learned_variance_at_its_ends_is_the_fixed_one",),
    ),
    Mutant(
        "no-stop-gradient",
        "lets the gradient of L_vlb reach the mean",
        "Nichol & Dhariwal 2021, section 3.1",
        "The bound is there to train the variance. Its gradient by the mean is noisy, and the "
        "mean learns from L_simple.",
        (
            Edit(
                _D + "objectives:hybrid",
                "prediction.detach() if isinstance(prediction, Tensor) else prediction",
                "prediction",
            ),
        ),
        (
            "diffusion/test_objectives_vlb.py::test_hybrid_leaves_the_gradient_of_the_mean_to_l_simple",
        ),
    ),
    Mutant(
        "max-snr",
        "takes the larger of SNR and gamma",
        "Hang et al. 2023, section 3.4",
        "min(SNR, gamma): times with little noise, whose SNR is huge, shall not outweigh the rest.",
        (
            Edit(
                _D + "objectives:min_snr_weight",
                "np.maximum(schedule.snr[t], gamma)",
                "np.minimum(schedule.snr[t], gamma)",
            ),
        ),
        ("diffusion/test_objectives_vlb.py::test_min_snr_weights",),
    ),
    Mutant(
        "bins-too-narrow",
        "makes the bins of the decoder 2 / 256 wide",
        "Ho et al. 2020, eq. 13: the bins are those of 255 gaps",
        "256 values lie at the ends of 255 gaps. Bins that are too narrow leave gaps between them, "
        "and their probabilities do not sum to 1.",
        (
            Edit(
                _D + "decoder:log_probability_nats",
                "h = 1 / (check_levels(levels) - 1)",
                "h = 1 / check_levels(levels)",
            ),
        ),
        ("diffusion/test_decoder.py::test_the_bins_have_probability_1_together",),
    ),
    Mutant(
        "rate-from-the-clean-end",
        "sums the rate from t = 1 upwards",
        "E30; Ho et al. 2020, section 4.3",
        "x_T is sent first. What has arrived by time t are the terms from T down to t, not those "
        "from 1 up to it.",
        (
            Edit(
                _D + "coding:rate_distortion",
                "np.cumsum(nats[:0:-1])[::-1]",
                "np.cumsum(nats[1:])",
            ),
        ),
        ("diffusion/test_coding.py::test_any_bound",),
    ),
)

NETWORK = (
    Mutant(
        "softmax-over-queries",
        "takes the softmax over the queries",
        "annotated_deep_learning_paper_implementations #146",
        "For each query the weights of all keys sum to 1. Over the other axis each key has one "
        "vote to share out, and one key alone does not give its value.",
        (
            Edit(
                "minidiff.backend.kernels.reference:attention",
                "e / e.sum(axis=-1, keepdims=True)",
                "e / e.sum(axis=-2, keepdims=True)",
            ),
        ),
        (
            "ops/test_attention.py::test_one_key_gives_its_value",
            "ops/test_attention.py::test_weights_are_positive_and_sum_to_one",
        ),
    ),
    Mutant(
        "scores-not-scaled",
        "leaves out 1 / sqrt(d)",
        "annotated_deep_learning_paper_implementations #282, imagen-pytorch #55",
        "A sum of d products has a standard deviation of sqrt(d). Undivided, the softmax picks one "
        "key, and its gradient vanishes.",
        (
            Edit(
                "minidiff.backend.kernels.reference:attention",
                "(q @ k.swapaxes(-1, -2)) * (1 / math.sqrt(q.shape[-1]))",
                "q @ k.swapaxes(-1, -2)",
            ),
        ),
        ("ops/test_attention.py::test_scores_are_divided_by_the_root_of_the_head_size",),
    ),
    Mutant(
        "cosines-first",
        "puts the cosines before the sines",
        "hojonathanho/diffusion #15, diffusers #3981",
        "To a linear layer that is trained with it the order is all the same. To the weights of "
        "another code base it is not.",
        (
            Edit(
                "minidiff.nn.time:SinusoidalEmbedding.__init__",
                'order: str = "sin_cos"',
                'order: str = "cos_sin"',
            ),
        ),
        ("nn/test_time.py::test_the_default_is_ddpms",),
    ),
    Mutant(
        "half-for-half-minus-1",
        "divides by dim / 2 in the exponent of the frequencies",
        "hojonathanho/diffusion #15, Hugging Face blog #2183",
        "Both are in use: with dim/2 - 1, as in DDPM's code, the slowest frequency is exactly "
        "1/10000. It matters when weights are carried over.",
        (
            Edit(
                "minidiff.nn.time:SinusoidalEmbedding.__init__",
                "shift: int = 1",
                "shift: int = 0",
            ),
        ),
        ("nn/test_time.py::test_the_default_is_ddpms",),
    ),
    Mutant(
        "average-fed-back",
        "writes the average back into the weights that are trained",
        "diffae #16, diffusion_policy #63",
        "The average watches training and takes no part in it. Fed back, it acts as a brake on "
        "every step.",
        (
            Edit(
                "minidiff.optim:EMA.update",
                "kernels.of(xp).moving_average(xp, self.data, self.flat.data, decay)",
                "kernels.of(xp).moving_average(xp, self.data, self.flat.data, decay)\n"
                "    self.flat.data[...] = self.data",
            ),
        ),
        ("test_optim.py::test_training_knows_nothing_of_the_average",),
    ),
    Mutant(
        "average-without-warm-up",
        "averages with the full decay from the first update on",
        "improved-diffusion #59, SeqDiffuSeq #8",
        "With a decay of 0.9999 the random start still has 90 % of the average after a thousand "
        "steps, and samples of it are noise.",
        (
            Edit(
                "minidiff.optim:EMA.next_decay",
                "min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay",
                "self.decay",
            ),
        ),
        ("test_optim.py::test_the_share_of_the_random_start_after_a_thousand_updates",),
    ),
    Mutant(
        "broadcasting-not-undone",
        "takes the mean over the axes that were broadcast",
        "pytorch #1787, HIPS/autograd #384, rust-autograd #3, #38",
        "An element that was used many times gets the sum of what comes back from all its uses.",
        (
            Edit(
                "minidiff.autograd:_unbroadcast",
                "g.sum(axis=stretched",
                "g.mean(axis=stretched",
            ),
        ),
        ("test_autograd.py::test_broadcasting_is_undone",),
    ),
    Mutant(
        "any-size-fits",
        "lets a U-Net halve an odd side",
        "E44; Pytorch-UNet #32, fastai2 #6",
        "The number of channels does not make an image fit: each level halves the sides, and the "
        "way up must meet the same sizes again.",
        (
            Edit(
                "minidiff.unet:UNetConfig._problems",
                "if self.image_size % shrink:",
                "if False:",
            ),
        ),
        ("test_unet.py::test_an_impossible_config_is_refused_with_the_reason",),
    ),
)

TRAINING = (
    Mutant(
        "attention-without-its-input",
        "returns what attention gives, without adding it to its input",
        "annotated_deep_learning_paper_implementations #146, #282: a residual connection is lost",
        "Attention adds to what is there. The projection starts at zero, so without the input the "
        "block starts as 0 in place of the identity, and nothing of the image gets past it.",
        (
            Edit(
                "minidiff.nn.attention:SelfAttention.__call__",
                "return x + self.project(h)",
                "return self.project(h)",
            ),
            Edit(
                "minidiff.nn.attention:CrossAttention.__call__",
                "return x + self.project(h)",
                "return self.project(h)",
            ),
        ),
        (
            "nn/test_attention.py::test_they_start_as_the_identity",
            "nn/test_attention.py::test_self_attention_is_its_formula",
        ),
    ),
    Mutant(
        "resumed-optimizer-counts-from-1",
        "goes on with the moments of Adam and forgets how many steps it took",
        "pytorch #35047, stylegan2-ada-pytorch #108",
        "The moments are divided by 1 - beta^step. With a count that starts again the first "
        "updates after a resumption are up to ten times too large, and the loss jumps.",
        (
            Edit(
                "minidiff.optim:Adam.load_state_dict",
                'self.steps = int(state["steps"])',
                "self.steps = 0",
            ),
        ),
        ("test_optim.py::test_a_saved_optimizer_goes_on_to_the_same_bits",),
    ),
    Mutant(
        "resumed-run-draws-the-same-again",
        "makes the generator of a step from the seed alone",
        "wavenet_vocoder #132; a seed that is set at the start of each run",
        "A run that is resumed must draw what it would have drawn. With the seed alone each start "
        "sees the noise of the first steps once more; the step belongs to the key.",
        (
            Edit(
                "minidiff.backend:generator",
                "_entropy(seed, step, rank, stream=0)",
                "_entropy(seed, 0, rank, stream=0)",
            ),
            Edit(
                "minidiff.backend:key",
                "_entropy(seed, step, rank, stream=0)",
                "_entropy(seed, 0, rank, stream=0)",
            ),
            Edit(
                "minidiff.backend:host_generator",
                "_entropy(seed, step, rank, stream=1)",
                "_entropy(seed, 0, rank, stream=1)",
            ),
        ),
        (
            "backend/test_generators.py::test_different_arguments_different_draws",
            "backend/test_philox.py::test_a_key_is_a_pure_function_of_seed_step_and_rank",
        ),
    ),
    Mutant(
        "resumed-epoch-starts-over",
        "begins the order of the images anew with each batch",
        "pytorch #35047: a shuffled loader that does not know where it was",
        "The k-th step takes the k-th stretch of the order. A loop that starts from the front "
        "whenever it is entered shows some images often and others never.",
        (
            Edit(
                "minidiff.data.batches:batch_indices",
                "position = (step - 1) * batch_size + ",
                "position = 0 * batch_size + ",
            ),
        ),
        ("data/test_batches.py::test_each_epoch_is_a_permutation",),
    ),
    Mutant(
        "nan-without-a-name",
        "finds that a value is not finite and does not say where",
        "denoising-diffusion-pytorch #61, #175, #360: a loss that is NaN",
        "NaN spreads: by the time that the loss has it, every gradient has it too. The name of the "
        "first op that made one is what there is to go by.",
        (
            Edit(
                "minidiff.autograd:op",
                "{f.__name__} gave a value that is not finite",
                "an op gave a value that is not finite",
            ),
        ),
        ("test_autograd.py::test_the_first_op_that_went_wrong_is_blamed_by_name",),
    ),
    Mutant(
        "infinity-passes",
        "looks for NaN only, where values may be infinite",
        "denoising-diffusion-pytorch #360",
        "An infinity comes first: NaN is what the next op makes of inf - inf, and is blamed on an "
        "op that did nothing wrong.",
        (
            Edit(
                "minidiff.autograd:op",
                "not bool(xp.isfinite(y).all())",
                "bool(xp.isnan(y).any())",
            ),
        ),
        ("test_autograd.py::test_the_first_op_that_went_wrong_is_blamed_by_name",),
    ),
    Mutant(
        "pixels-from-0-to-1",
        "scales bytes to [0, 1]",
        "dpm-solver #2",
        "The noise is standard normal, so the images must lie around 0, in [-1, 1]. From 0 to 1 "
        "they have a quarter of the variance, and a mean that the noise has to get rid of.",
        (
            Edit(
                "minidiff.data.dataset:from_uint8",
                "u / np.float32(127.5) - np.float32(1)",
                "u / np.float32(255)",
            ),
        ),
        ("data/test_data.py::test_bytes_survive_the_way_there_and_back",),
    ),
    Mutant(
        "any-range-of-pixels",
        "trains on images of any range",
        "dpm-solver #2",
        "Bytes from 0 to 255 make a model that draws grey fog, and no error. What loads data "
        "checks that it lies in [-1, 1].",
        (
            Edit(
                "minidiff.data.dataset:Dataset.__post_init__",
                "if not (x.min() >= -1 and x.max() <= 1):",
                "if False:",
            ),
        ),
        ("data/test_data.py::test_a_data_set_refuses",),
    ),
)

_FRECHET = "minidiff.metrics.frechet:squared_frechet"

METRICS = (
    Mutant(
        "means-not-squared",
        "adds |m - m'| to the Frechet distance, and not its square",
        "E13",
        "The formula gives the square of a distance, and all of its terms are squares. N(0, I) and "
        "N((2, 0), I) are 2 apart, and d^2 is 4.",
        (Edit(_FRECHET, "off @ off", "np.sqrt(off @ off)"),),
        ("metrics/test_frechet.py::test_a_shift_counts_squared",),
    ),
    Mutant(
        "root-element-by-element",
        "takes the root of each element of a covariance",
        "TTUR #4, #5: the root in the formula is that of a matrix",
        "C^{1/2} C^{1/2} = C. Of a diagonal matrix both roots are the same, of others not: "
        "a negative covariance has no root of its own at all.",
        (
            Edit(
                "minidiff.metrics.frechet:_checked",
                "axes * np.sqrt(np.maximum(variances, 0)) @ axes.T",
                "np.sqrt(np.maximum(c, 0))",
            ),
        ),
        ("metrics/test_frechet.py::test_the_root_of_the_product_by_scipy",),
    ),
    Mutant(
        "root-of-a-rounding-error",
        "takes the root of eigenvalues that rounding has made negative",
        "TTUR #40; pytorch-fid #13, #117",
        "Fewer images than features give a singular covariance. Some of its zeros come out as "
        "-1e-17, whose root is NaN, and so is the distance.",
        (
            Edit(
                _FRECHET,
                "np.sqrt(np.maximum(np.linalg.eigvalsh(_symmetric(product)), 0)).sum()",
                "np.where((v := np.linalg.eigvalsh(_symmetric(product))) < 0, np.nan, "
                "abs(v) ** 0.5).sum()",
            ),
        ),
        ("metrics/test_frechet.py::test_it_is_finite_symmetric_and_not_negative_at_any_rank",),
    ),
    Mutant(
        "score-with-kl-reversed",
        "scores images by KL(p(y) || p(y | x))",
        "E38: the KL between p(y) and p(y | x)",
        "The Inception score has KL(p(y | x) || p(y)): its mean is a difference of entropies. The "
        "other direction is infinite as soon as the classifier is sure that it is not some class.",
        (
            Edit(
                "minidiff.metrics.inception:_score",
                "return float(np.exp((p * np.log(ratio)).sum(1).mean()))",
                "return float(np.exp((-p_y * np.log(ratio)).sum(1).mean()))",
            ),
        ),
        (
            "metrics/test_inception.py::"
            "test_the_divergence_is_that_of_an_answer_from_the_mean_of_all",
        ),
    ),
    Mutant(
        "score-of-each-image-by-itself",
        "takes the mean of exp(KL), for exp of the mean",
        "Salimans et al. 2016, section 4, where the exponential stands outside",
        "The exponential is there to make the values easier to compare, after the mean. Inside it "
        "a few sure answers count for more.",
        (
            Edit(
                "minidiff.metrics.inception:_score",
                "np.exp((p * np.log(ratio)).sum(1).mean())",
                "np.exp((p * np.log(ratio)).sum(1)).mean()",
            ),
        ),
        ("metrics/test_inception.py::test_its_logarithm_is_variety_less_doubt",),
    ),
    Mutant(
        "pairs-with-itself",
        "counts each image as a pair with itself in the kernel distance",
        "the biased estimate of the maximum mean discrepancy",
        "k(x, x) is larger than k of different images, so equal distributions seem to be apart, "
        "the more the fewer images there are: what the kernel distance is meant to avoid.",
        (
            Edit(
                "minidiff.metrics.kid:_within",
                "(k.sum() - np.trace(k)) / (n * (n - 1))",
                "k.sum() / n**2",
            ),
        ),
        ("metrics/test_kid.py::test_it_is_unbiased",),
    ),
)

MUTANTS: tuple[Mutant, ...] = (
    *SCHEDULES, *PROCESS, *PARAMETERIZATIONS, *ANCESTRAL, *DDIM, *SOLVERS, *GUIDANCE, *BOUNDS,
    *NETWORK, *TRAINING, *METRICS,
)  # fmt: skip

BY_ID = {mutant.id: mutant for mutant in MUTANTS}
