// @tus/server with @tus/s3-store on the bucket of the environment, listening on PORT. Run with the packages' folder as the
// working directory. What is not set here is these packages' own default.
import { createRequire } from 'node:module'

const require = createRequire(`${process.cwd()}/`)
const { Server } = require('@tus/server')
const { S3Store } = require('@tus/s3-store')

const datastore = new S3Store({
  partSize: 8 * 1024 * 1024,
  s3ClientConfig: {
    bucket: process.env.S3_BUCKET,
    region: 'us-east-1',
    endpoint: process.env.S3_ENDPOINT,
    forcePathStyle: true,
    credentials: { accessKeyId: process.env.S3_ACCESS_KEY, secretAccessKey: process.env.S3_SECRET_KEY },
  },
})
new Server({ path: '/files', datastore }).listen({ host: '127.0.0.1', port: Number(process.env.PORT) })
