/** Clients in Python, by gRPC's own package and by grpclib, from one virtual environment. */
import { testLanguage } from './rig.ts';

const PYTHON = {
  tools: 'python3 --version && python3 -c "import ensurepip, venv"',
  prepare: 'python3 -m venv ../venv',
  run: 'python main.py',
};

testLanguage({ ...PYTHON, name: 'Python', files: { 'main.py': 'main.py' } });
testLanguage({
  ...PYTHON,
  name: 'Python with grpclib',
  files: { 'main_grpclib.py': 'main.py' },
  ended: /^StreamTerminatedError$/,
});
