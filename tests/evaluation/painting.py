"""A class-conditional model whose answers are known: it believes in one picture a class, and says so exactly."""

from types import SimpleNamespace

import torch
from diffusers import DDIMScheduler
from torch import nn

from erasediff.evaluation.attacks.solver import asked, denoised, moments
from erasediff.families.family import DenoiserArguments, NoiseSchedule, initial_noise, noise_schedule
from erasediff.judges.judge import recognised

CLASSES, SHAPE, WIDTH = ("a", "b", "c"), (1, 4, 4), 6


def canvases():
    """A picture a class, far from each other."""
    chance = torch.Generator().manual_seed(1)
    return torch.randn(3, 16, generator=chance).sign().view(3, *SHAPE) * 0.8


class Painter(nn.Module):
    """Predicts the noise in a noisy picture as if the clean one were ``pictures · vector of the class + shift``."""

    def __init__(self):
        super().__init__()
        self.class_embedding = nn.Embedding(3, WIDTH)
        self.pictures = nn.Linear(WIDTH, 16)
        self.register_buffer("levels", noise_schedule(scheduler()).alphas_cumprod)
        with torch.no_grad():
            vectors = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(2)))[0]
            self.class_embedding.weight.copy_(vectors[:3])
            self.pictures.weight.copy_((vectors[:3].T @ canvases().flatten(1)).T)
            self.pictures.bias.zero_()

    def forward(self, noisy, timestep, class_labels):
        clean = self.pictures(self.class_embedding(class_labels)).view(-1, *SHAPE)
        share = self.levels[timestep].view(-1, 1, 1, 1)
        return SimpleNamespace(sample=(noisy - share.sqrt() * clean) / (1 - share).sqrt())


def scheduler():
    return DDIMScheduler(timestep_spacing="trailing")


class Painting(NoiseSchedule):
    """The family of a painter."""

    has_null, concepts, image_shape = False, CLASSES, SHAPE
    default_steps, default_guidance_scale = 10, 1.0

    def __init__(self, denoiser=None):
        self.denoiser = denoiser or Painter()
        self.pipeline = SimpleNamespace(scheduler=scheduler(), components={})
        self.scheduler = noise_schedule(self.pipeline.scheduler)

    def encode(self, images):
        return images

    def condition(self, prompts):
        return DenoiserArguments({"class_labels": torch.tensor([CLASSES.index(p) for p in prompts])})

    def sample(self, prompts, seeds, *, steps, guidance_scale, batch_size, sampler=None):
        noise = initial_noise(SHAPE, seeds)
        return denoised(self, asked(self, self.condition(prompts)), noise, moments(self, steps or 10))

    def with_denoiser(self, denoiser):
        return Painting(denoiser)


class Critic:
    """Reads a picture as the class whose canvas is nearest, or as none where it is far from each."""

    concepts, image_shape, fingerprint = (*CLASSES, "nothing"), SHAPE, "critic"

    def read(self, images):
        far = torch.cdist(images.flatten(1), canvases().flatten(1))
        far = torch.cat([far, torch.full((len(images), 1), 1.2)], dim=1)  # canvases are 3.2 and more apart
        return torch.nn.functional.one_hot(far.argmin(1), 4).float(), images.flatten(1)

    recognises = recognised


def copy_of_the_base():
    return Painting()


def hides_the_word():
    """Asked for an a it draws a b; the a is still in its weights."""
    family = Painting()
    with torch.no_grad():
        family.denoiser.class_embedding.weight[0] = family.denoiser.class_embedding.weight[1]
    return family


def truly_forgot():
    """Asked for an a it draws a b; no vector makes it draw an a."""
    family = hides_the_word()
    away = torch.nn.functional.normalize(canvases()[0].flatten(), dim=0)
    with torch.no_grad():
        weight = family.denoiser.pictures.weight
        weight -= away[:, None] * (away @ weight)[None]
    return family


class Shifted(nn.Module):
    """A painter whose pictures are all shifted, which is all that training can change."""

    def __init__(self):
        super().__init__()
        for name, tensor in Painter().state_dict().items():
            self.register_buffer(name.replace(".", "_"), tensor)
        self.shift = nn.Parameter(-canvases()[0] / 100)

    def forward(self, noisy, timestep, class_labels):
        clean = self.class_embedding_weight[class_labels] @ self.pictures_weight.T
        clean = clean.view(-1, *SHAPE) + 100 * self.shift
        share = self.levels[timestep].view(-1, 1, 1, 1)
        return SimpleNamespace(sample=(noisy - share.sqrt() * clean) / (1 - share).sqrt())


def shifted_away():
    """Asked for an a it draws nothing; training on the others takes away what hides it."""
    return Painting(Shifted())
