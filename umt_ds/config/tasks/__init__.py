"""Settings of the tasks, a file a task: `task.kind` says which."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from umt_ds.config.tasks.image_text import ImageTextConfig
from umt_ds.config.tasks.question_answering import QuestionAnsweringConfig
from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.config.tasks.retrieval import RetrievalConfig
from umt_ds.config.tasks.stage1 import Stage1Config
from umt_ds.config.tasks.stage2 import Stage2Config

TaskConfig = Annotated[
    Stage1Config | Stage2Config | ImageTextConfig | RecognitionConfig | RetrievalConfig | QuestionAnsweringConfig,
    Field(discriminator="kind"),
]
