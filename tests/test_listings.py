"""Small programs written for torch: with only their import lines changed they run, and print the same."""
import contextlib
import io
import re

import pytest

HEAD = "import minisparse as torch\nimport minisparse.nn as nn\n"

SPARSE_TENSOR = '''
places = torch.tensor([[0, 2, 2, 3], [4, 0, 3, 1]])
numbers = torch.tensor([1.5, -2, 3, 4], dtype=torch.float32)
graph = torch.sparse_coo_tensor(places, numbers, (4, 5))
print("edges:")
print(graph)
print(graph.to_dense())
print(graph.to_sparse_csr())
print(torch.matmul(graph, torch.ones(5, 2)))
''', '''edges:
tensor(indices=tensor([[0, 2, 2, 3],
                       [4, 0, 3, 1]]),
       values=tensor([ 1.5000, -2.0000,  3.0000,  4.0000]),
       size=(4, 5), nnz=4, layout=torch.sparse_coo)
tensor([[ 0.0000,  0.0000,  0.0000,  0.0000,  1.5000],
        [ 0.0000,  0.0000,  0.0000,  0.0000,  0.0000],
        [-2.0000,  0.0000,  0.0000,  3.0000,  0.0000],
        [ 0.0000,  4.0000,  0.0000,  0.0000,  0.0000]])
tensor(crow_indices=tensor([0, 1, 1, 3, 4]),
       col_indices=tensor([4, 0, 3, 1]),
       values=tensor([ 1.5000, -2.0000,  3.0000,  4.0000]), size=(4, 5), nnz=4,
       layout=torch.sparse_csr)
tensor([[1.5000, 1.5000],
        [0.0000, 0.0000],
        [1.0000, 1.0000],
        [4.0000, 4.0000]])
'''

MASKED = '''
class Masked(nn.Module):
    def __init__(self, inputs, outputs, sparsity=0.5):
        super(Masked, self).__init__()
        self.inputs = inputs
        self.weight = nn.Parameter(torch.linspace(-1, 2, inputs * outputs).reshape(outputs, inputs))
        self.sparsity = sparsity
        self.mask = self._choose()

    def _choose(self):
        kept = int((1 - self.sparsity) * self.weight.numel())
        smallest = torch.topk(self.weight.abs().flatten(), kept)[0][-1]
        return (self.weight.abs() >= smallest).float()

    def update(self, sparsity):
        self.sparsity = sparsity
        self.mask = self._choose()

    def forward(self, x):
        weight = self.weight * self.mask
        return torch.matmul(x, weight.t())

layer = Masked(4, 3, sparsity=0.5)
print(layer.mask)
x = torch.arange(8).float().reshape(2, 4)
print("output:")
print(layer(x))
layer.update(0.75)
print(layer.mask.sum(), layer.sparsity, layer.inputs)
print(layer(x))
print([name for name, _ in layer.named_parameters()])
''', '''tensor([[1., 0., 0., 0.],
        [0., 0., 0., 1.],
        [1., 1., 1., 1.]])
output:
tensor([[ 0.0000,  2.7273, 10.9091],
        [-4.0000,  6.3636, 36.3636]], grad_fn=<MmBackward0>)
tensor(3.) 0.75 4
tensor([[ 0.0000,  0.0000, 10.9091],
        [ 0.0000,  0.0000, 31.6364]], grad_fn=<MmBackward0>)
['weight']
'''

REGRESSION = '''
class Regression(nn.Module):
    def __init__(self, inputs):
        super(Regression, self).__init__()
        self.linear = nn.Linear(inputs, 1)

    def forward(self, x):
        return self.linear(x)

def l1(model, strength=0.1):
    return strength * sum(torch.sum(torch.abs(p)) for p in model.parameters())

def l0(model, strength=0.1):
    count = sum(torch.sum(torch.where(p != 0, torch.ones_like(p), torch.zeros_like(p)))
                for p in model.parameters())
    return strength * count

x = torch.sin(torch.arange(60).float() * 1.7).reshape(20, 3)
y = x[:, :1] * 2 - x[:, 1:2] + 0.5
for penalty in l1, l0:
    model = Regression(3)
    with torch.no_grad():
        model.linear.weight.copy_(torch.tensor([[0.5, -0.25, 0.0]]))
        model.linear.bias.zero_()
    criterion = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    print(penalty(model))
    for epoch in range(40):
        optimizer.zero_grad()
        loss = criterion(model(x), y) + penalty(model)
        loss.backward()
        optimizer.step()
        if (epoch + 1) % 10 == 0:
            print(f"Epoch [{epoch + 1}/40], Loss: {loss.item():.4f}")
''', '''tensor(0.0750, grad_fn=<MulBackward0>)
Epoch [10/40], Loss: 0.4299
Epoch [20/40], Loss: 0.3581
Epoch [30/40], Loss: 0.3531
Epoch [40/40], Loss: 0.3524
tensor(0.2000)
Epoch [10/40], Loss: 0.4933
Epoch [20/40], Loss: 0.4063
Epoch [30/40], Loss: 0.4006
Epoch [40/40], Loss: 0.4001
'''
PROGRAMS = {"sparse tensor": SPARSE_TENSOR, "masked layer": MASKED, "penalties": REGRESSION}


def printed(program):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(program, {"__name__": "program"})
    return out.getvalue()


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_prints_this(name):
    program, expected = PROGRAMS[name]
    assert printed(HEAD + program) == expected


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_torch_prints_the_same(name):
    pytest.importorskip("torch")
    program, expected = PROGRAMS[name]
    program = (HEAD + program).replace("minisparse as torch", "torch").replace("minisparse", "torch")
    assert printed(program) == expected


def test_random_weights_print_in_the_same_form():
    text = printed(HEAD + "torch.manual_seed(3)\nweight = nn.Parameter(torch.randn(5, 10))\n"
                   "print(torch.matmul(torch.randn(1, 10), weight.t()))")
    assert re.fullmatch(r"tensor\(\[\[( ?-?\d\.\d{4}(, )?){5}\]\], grad_fn=<MmBackward0>\)\n", text)
