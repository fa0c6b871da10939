# The service, and an MLflow server beside it: one image, two commands.
#
#   docker build -t ilp-service .                               CPU
#   docker build -t ilp-service:cuda --build-arg TORCH_VARIANT=cuda .
#
# Every step is a script of deploy/ that runs outside a container just as well.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
ARG TORCH_VARIANT=cpu
WORKDIR /src
# PyTorch first: its layer stays when the service changes.
COPY constraints.txt ./
COPY deploy/install deploy/install
RUN deploy/install torch --venv /opt/ilp --variant "${TORCH_VARIANT}"
COPY pyproject.toml README.md LICENSE ./
COPY ilp_service ilp_service
COPY plugins plugins
RUN deploy/install service --venv /opt/ilp --variant "${TORCH_VARIANT}"
COPY deploy/serve deploy/mlflow deploy/webhook deploy/healthy /opt/ilp/deploy/

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="ilp-service" \
      org.opencontainers.image.description="Diagnoses every model version that is registered in MLflow" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --system --gid 10001 ilp \
 && useradd --system --uid 10001 --gid ilp --home-dir /var/lib/ilp --shell /usr/sbin/nologin ilp \
 && install -d -o ilp -g ilp -m 0750 /var/lib/ilp /var/lib/mlflow
COPY --from=build /opt/ilp /opt/ilp
ENV PATH=/opt/ilp/bin:${PATH} \
    HOME=/var/lib/ilp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    ILP_SERVICE_HOST=0.0.0.0 \
    ILP_SERVICE_PORT=8350
USER 10001:10001
WORKDIR /var/lib/ilp
# All that is written lies here and in /tmp, so the rest of the file system may be read-only.
VOLUME /var/lib/ilp
EXPOSE 8350
HEALTHCHECK --interval=15s --timeout=6s --start-period=60s --retries=4 \
  CMD ["/opt/ilp/bin/python", "/opt/ilp/deploy/healthy", "http://127.0.0.1:8350/healthz"]
STOPSIGNAL SIGTERM
CMD ["/opt/ilp/deploy/serve"]
