# shellcheck shell=bash disable=SC2034
# The settings of the scripts beside it, and nothing else: no secret has a place here. A value from the environment
# goes before the one below:  cluster=landcover7 setup_scripts/hdinsight/create_cluster.sh

# Names. Storage account and cluster names are unique in all of Azure: choose your own.
group=${group:-landcover}
location=${location:-eastus}
storage=${storage:-landcovertiles}
container=${container:-tutorial}
identity=${identity:-landcover-cluster}
cluster=${cluster:-landcover-spark}
ssh_user=${ssh_user:-sshuser}
ssh_public_key=${ssh_public_key:-$HOME/.ssh/id_rsa.pub}

# Machines. Two head nodes and three ZooKeeper nodes come with every cluster.
head_size=${head_size:-Standard_E8_v3}
worker_size=${worker_size:-Standard_E8_v3}
zookeeper_size=${zookeeper_size:-Standard_A4_v2}
workers=${workers:-4}
# Autoscale, by load, goes no further than these.
least_workers=${least_workers:-3}
most_workers=${most_workers:-10}

# Dollars an hour of one machine with HDInsight's surcharge, in cents: rough list prices, pay as you go. Look yours up:
# azure.microsoft.com/pricing/details/hdinsight. ZooKeeper nodes of the default size are not billed.
head_cents=${head_cents:-66}
worker_cents=${worker_cents:-66}
zookeeper_cents=${zookeeper_cents:-0}
# A month of a gigabyte in storage.
storage_cents=${storage_cents:-2}
