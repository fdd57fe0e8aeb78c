module github.com/backstay/backstay/tools/peers/kopia

go 1.26.0

require github.com/kopia/kopia v0.23.1
