"""The registered model, from code: concepts in, PNG pictures out. MLflow loads this file itself."""

import base64

import mlflow
import pandas as pd


class ErasedModel(mlflow.pyfunc.PythonModel):
    """Draws a picture a row of the columns ``concept`` (text) and ``seed`` (whole number; the row's place by default).

    The same concept and seed give the same picture, wherever they stand in a request.
    """

    def load_context(self, context):
        from erasediff.device import device
        from erasediff.families import family_of, open_pipeline

        self.family = family_of(open_pipeline(context.artifacts["pipeline"]).to(device()))

    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:
        from erasediff.data.images import encode_png
        from erasediff.registry.defaults import GUIDANCE_SCALE, STEPS

        options = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE_SCALE, **(params or {})}
        concepts = [str(c) for c in model_input["concept"]]
        seeds = list(range(len(concepts)))
        if "seed" in model_input:
            seeds = [place if pd.isna(s) else int(s) for place, s in enumerate(model_input["seed"])]
        images = self.family.sample(
            concepts, seeds, steps=int(options["num_inference_steps"]), guidance_scale=float(options["guidance_scale"])
        )
        pngs = [base64.b64encode(encode_png(image)).decode() for image in images]
        return pd.DataFrame({"concept": concepts, "png_base64": pngs})


mlflow.models.set_model(ErasedModel())
