"""Generation on a GPU: the cache against the whole model, in both precisions."""

import pytest
import torch

from tests.support.families import LLAMA, VOCAB_USED, build
from tresse.engine.generation.cache import CachedModel

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
@torch.no_grad()
def test_steps_on_a_gpu_have_the_logits_of_the_whole_sequence(
    dtype: torch.dtype, tolerance: float
) -> None:
    model = build(LLAMA).to("cuda", dtype).eval()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCAB_USED, (3, 71), generator=generator).cuda()
    new = torch.randint(VOCAB_USED, (4, 70), generator=generator).cuda()
    lengths, sources = torch.tensor([1, 7, 71]).cuda(), torch.tensor([2, 0, 1, 1]).cuda()
    cached = CachedModel(model, sources, 71 + 70)
    cached.read_prompts(tokens, lengths)
    with cached.generating() as step:
        found = torch.stack([step(own) for own in new.T], dim=1)
    for row, source in enumerate(sources.tolist()):
        whole = torch.cat((tokens[source, : lengths[source]], new[row]))[None]
        expected = model(whole)[0, -70:].float()
        largest = expected.abs().max().item()
        torch.testing.assert_close(
            found[row].float(), expected, rtol=tolerance, atol=tolerance * largest
        )
