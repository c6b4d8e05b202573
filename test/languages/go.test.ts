/** A client in Go. Without optimisation and cgo it is compiled in two thirds of the time. */
import { testLanguage } from './rig.ts';

testLanguage({
  name: 'Go',
  tools: 'go version',
  files: { 'main.go': 'main.go' },
  env: { CGO_ENABLED: '0', GOFLAGS: "'-gcflags=all=-N -l' '-ldflags=-s -w'" },
  prepare: 'go mod init example.com/you',
  compile: 'go mod tidy && go build -o client .',
  run: './client',
  floods: true,
});
