# The API server on a CPU: api.py with the embedded checkpoint, or with weights that are mounted at /models.
#
#     docker build -t chatglm-6b .
#     docker run --rm -p 127.0.0.1:8000:8000 chatglm-6b
#     docker run --rm -p 127.0.0.1:8000:8000 -v /path/to/weights:/models:ro chatglm-6b --model /models/chatglm-6b-int4
#
# docs/deployment.md says more.
FROM python:3.11-slim

# gcc compiles the INT8 and INT4 kernels at first use
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev libgomp1 && rm -rf /var/lib/apt/lists/*

# PyTorch's CPU build first: the one that PyPI has for Linux brings several GB of CUDA libraries
RUN pip install --no-cache-dir "torch>=2.10" --index-url https://download.pytorch.org/whl/cpu
COPY requirements.txt /app/
RUN pip install --no-cache-dir -r /app/requirements.txt
COPY . /app

RUN useradd --create-home chatglm && mkdir /models
USER chatglm
WORKDIR /app
EXPOSE 8000

# large weights are read before the first request is taken: hence the long start
HEALTHCHECK --interval=30s --timeout=10s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=5)"]

# SIGTERM lets running answers finish, for --drain-seconds (30): stop with `docker stop -t 40`
ENTRYPOINT ["python", "api.py", "--host", "0.0.0.0"]
