import pytest
import dysem_lab as dl
pytestmark = pytest.mark.usefixtures("_one_thread")

def test_smoke(tiny_folder, tmp_path):
    study = dl.Study(tiny_folder("Llama"), "demo", languages=["en","fr","zh"], pairs=8, settings="language-specific")
    found = dl.concept(study, n_sets=2)
    print(found.caption)
    print(found.table[found.table.language=="mean"].T.to_string())
    print(found.examples.head(9).to_string())
    found.save("/work/runs/readout/tests")
