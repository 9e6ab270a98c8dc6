"""How a served model samples where a request does not say."""

STEPS, GUIDANCE_SCALE = 25, 1.0
