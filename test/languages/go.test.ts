/** A client in Go. */
import { QUICK_GO } from './quick-go.ts';
import { testLanguage } from './rig.ts';

testLanguage({
  name: 'Go',
  tools: 'go version',
  files: { 'main.go': 'main.go' },
  env: QUICK_GO,
  prepare: 'go mod init example.com/you',
  compile: 'go mod tidy && go build -o client .',
  run: './client',
  floods: true,
});
