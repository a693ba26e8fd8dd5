"""From a root file system to the images of a release: ROOT, HASH and BOOT.

Data flows one way:

* ``sources`` reads what people have (a folder, a tar, a container image, mkosi's output) into a ``Tree``;
* ``checks`` says what keeps that tree from being a node's system, each fault with a code (PURE);
* ``prepare`` returns the tree as it will be in ROOT: version and variant, trusted root, no identity (PURE);
* ``root`` writes it as an erofs, by ``mkfs.erofs`` alone where it reads archives, else through ``unpacked``;
* ``initrd`` and ``boot`` make what BOOT has; ``build`` puts the three images and their facts into a folder.

``request`` has what a person may choose; ``kernels`` and ``elf`` find in a tree what starts it.
"""
