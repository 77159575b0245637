//! Device side of a split virtqueue (virtio 2.7), over any [`DmaMemory`].
