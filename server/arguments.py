"""The server's own command-line arguments."""

import math
import os
from dataclasses import dataclass, field

from utils import ServingArguments


@dataclass
class ServerArguments(ServingArguments):
    """What only the server has, beside where it listens."""

    api_key: str = field(
        default="", metadata={"help": "key that clients must send as `Authorization: Bearer`; also CHATGLM_API_KEY"}
    )
    allow_origin: str = field(
        default="", metadata={"help": "origins, by commas, whose pages may call the server (CORS); * is all"}
    )
    max_queue: int = field(default=256, metadata={"help": "requests that may wait besides; 0 and up"})
    queue_timeout: float = field(default=120.0, metadata={"help": "seconds that a request may wait for its turn"})
    request_timeout: float = field(default=600.0, metadata={"help": "seconds that a request may take altogether"})
    drain_seconds: float = field(default=30.0, metadata={"help": "seconds that answers may run on after SIGTERM"})
    max_body_bytes: int = field(default=1 << 20, metadata={"help": "largest request body, in bytes"})
    prompt_cache_mb: int = field(default=256, metadata={"help": "memory for prompts that are asked again, in MiB"})
    cache_mb: int = field(
        default=0,
        metadata={
            "help": "memory for the running answers' keys and values, in MiB; 0: 70 %% of what is free at the start"
        },
    )
    served_model_name: str = field(default="chatglm-6b", metadata={"help": "name in /v1/models"})
    strict_model_names: bool = field(default=False, metadata={"help": "refuse requests for other model names"})
    log_conversations: bool = field(default=False, metadata={"help": "write prompts and answers to the log"})
    glm_bot: bool = field(default=False, metadata={"help": "also serve glm-bot's routes: /chat, /clear, /chatglm"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("queue_timeout", "request_timeout", "drain_seconds", "prompt_cache_mb", "cache_mb"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name, least in (("max_queue", 0), ("max_body_bytes", 1024)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        self.api_key = self.api_key or os.environ.get("CHATGLM_API_KEY", "")
