# The service alone: slim Python, what serving needs, no torch; the artefact is mounted. Mount the folder above it where new exports are to be taken.
#   docker build -t collabkit . && docker run -p 8000:8000 -v ./demo-output:/artefacts:ro collabkit
FROM python:3.12-slim AS build
WORKDIR /src
COPY requirements-serve.txt constraints.txt ./
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir -r requirements-serve.txt
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY collabkit collabkit
RUN /venv/bin/pip install --no-cache-dir --no-deps .

FROM python:3.12-slim
RUN useradd --system --uid 10001 --no-create-home collabkit
COPY --from=build /venv /venv
USER 10001
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
EXPOSE 8000
HEALTHCHECK --start-period=10s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health/ready', timeout=3)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["collabkit", "serve", "/artefacts/artefact", "--host", "0.0.0.0", "--watch"]
