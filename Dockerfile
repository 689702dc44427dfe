# The project's image, for hydra/launcher=vertex or any other place that runs containers: make image.
# What goes in is named in .dockerignore: code and configs, no checkpoint, no data, no secret.
FROM python:3.11-slim-bookworm

# Further parts of the project that the jobs need: --build-arg EXTRAS=vertex,mlflow
ARG EXTRAS=vertex,gs

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1

WORKDIR /app

# The libraries take minutes and change seldom: a layer of their own.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir launcher && touch launcher/__init__.py \
    && pip install --constraint constraints.txt ".[${EXTRAS}]" \
    && pip uninstall --yes checkpoint-launcher \
    && rm -rf launcher build ./*.egg-info

# Installed once more as it is: the jobs import it from anywhere, train.py and conf/ lie in the working directory.
COPY launcher ./launcher
RUN pip install --no-deps . && rm -rf build ./*.egg-info
COPY conf ./conf
COPY train.py ./

# As root: Vertex AI mounts buckets below /gcs for root.
CMD ["python", "train.py", "--help"]
