# One image for the server, the worker and the commands; `serve` by default. PostgreSQL and the bucket run in other
# containers (docker-compose.yml).
FROM python:3.13.14-slim@sha256:9662417aace5ae7b8e2609cce472b72a8958e134ba372808abe9cc1a0c0125e6 AS packages
COPY requirements.txt requirements-media.txt requirements-tracing.txt ./
RUN python -m venv --without-pip /opt/gateway \
    && pip --python /opt/gateway/bin/python install --no-cache-dir --no-compile --require-hashes -r requirements.txt
# Video, audio and HEIC:  docker compose build --build-arg MEDIA=yes
ARG MEDIA=no
RUN if [ "$MEDIA" = yes ]; then \
    pip --python /opt/gateway/bin/python install --no-cache-dir --no-compile --require-hashes -r requirements-media.txt; fi
# OpenTelemetry:  docker compose build --build-arg TRACING=yes
ARG TRACING=no
RUN if [ "$TRACING" = yes ]; then \
    pip --python /opt/gateway/bin/python install --no-cache-dir --no-compile --require-hashes -r requirements-tracing.txt; fi

FROM python:3.13.14-slim@sha256:9662417aace5ae7b8e2609cce472b72a8958e134ba372808abe9cc1a0c0125e6
# Fonts for text in SVG pictures.
RUN apt-get update && apt-get install -y --no-install-recommends fonts-dejavu-core && rm -rf /var/lib/apt/lists/*
COPY --from=packages /opt/gateway /opt/gateway
WORKDIR /app
COPY pyproject.toml app.py settings.py telemetry.py tracing.py web_clients.py web_server.py ./
COPY api/ api/
COPY commands/ commands/
COPY core/ core/
COPY db/ db/
COPY embedded/ embedded/
COPY jobs/ jobs/
COPY parsers/ parsers/
COPY services/ services/
COPY storage_backends/ storage_backends/

# The user may write to /tmp only (see read_only in docker-compose.yml).
USER 10001:10001
ENV PATH=/opt/gateway/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 PORT=8080 DATA_DIR=/tmp ENVIRONMENT=production
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/healthz', timeout=4)"]
# The server takes up to 30 s to finish its requests; see stop_grace_period in docker-compose.yml.
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "app.py"]
CMD ["serve"]
