# One image for every role: `docker run … es workers run users`.
FROM python:3.13-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY cli cli
COPY workers workers
COPY domain domain
COPY adapters adapters
COPY es es
COPY load load
RUN python -m venv /opt/es && /opt/es/bin/pip install --no-cache-dir --constraint constraints.txt '.[eventstoredb,postgres]'

FROM python:3.13-slim-bookworm
COPY --from=build /opt/es /opt/es
# Its own user. When every part is given by URL, the home holds only logs and sockets.
RUN useradd --uid 10001 --create-home --home-dir /var/lib/es --shell /usr/sbin/nologin es
USER es
ENV PATH=/opt/es/bin:$PATH ES_HOME=/var/lib/es ES_AUTOSTART=0
STOPSIGNAL SIGTERM
ENTRYPOINT ["es"]
CMD ["--help"]
