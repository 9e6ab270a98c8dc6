"""The registered model, from code: concepts in, PNG pictures out. MLflow loads this file itself."""

import base64

import mlflow
import pandas as pd


class ErasedModel(mlflow.pyfunc.PythonModel):
    """Draws a picture a row of the columns ``concept`` (text) and ``seed`` (whole number, 0 where there is none).

    The same row gives the same picture, wherever it stands in a request.
    """

    def load_context(self, context):
        from stages.diffusion import family_of, open_pipeline

        self.family = family_of(open_pipeline(context.artifacts["pipeline"]))

    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:
        from stages.data.images import encode_png

        options = {"num_inference_steps": 25, "guidance_scale": 1.0, **(params or {})}
        concepts = [str(c) for c in model_input["concept"]]
        seeds = [0] * len(concepts)
        if "seed" in model_input:
            seeds = [0 if pd.isna(s) else int(s) for s in model_input["seed"]]
        images = self.family.sample(
            concepts, seeds, steps=int(options["num_inference_steps"]), guidance_scale=float(options["guidance_scale"])
        )
        pngs = [base64.b64encode(encode_png(image)).decode() for image in images]
        return pd.DataFrame({"concept": concepts, "png_base64": pngs})


mlflow.models.set_model(ErasedModel())
